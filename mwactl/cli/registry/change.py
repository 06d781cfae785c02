"""How a change of what a name means is said: what was, what is, and the command that undoes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mwactl.cli.output import out

if TYPE_CHECKING:
    from mwactl.registry.change import Change


def answer_changes(changes: Sequence[Change], *, dry_run: bool) -> None:
    """Print changes that were made, or would be."""
    document = {"schema": 1, "dry_run": dry_run, "changes": [change.as_dict() for change in changes]}
    out.answer(
        document, human=lambda: _print(changes, dry_run=dry_run), identifier="\n".join(map(_identifier, changes))
    )


def said(change: Change) -> str:
    """A change in words, on one line."""
    if change.verb == "alias":
        words = [_version(change, side) for side in (change.old, change.new)]
        return f"{_alias(change)}: {_from_to(change, words)}"
    if change.verb == "tag":
        words = [_tags(side) for side in (change.old, change.new)]
        return f"{change.reference}: {_from_to(change, words)}"
    if attached := (change.new or {}).get("attachment"):
        return f"{attached} of {change.reference}"
    return change.reference


def with_undo(line: str, change: Change) -> str:
    """The line, and after it how to undo the change."""
    return f"{line}   undo: {change.undo}" if change.undo else line


def _print(changes: Sequence[Change], *, dry_run: bool) -> None:
    for change in changes:
        done = {"remove": "removed ", "restore": "restored "}.get(change.verb, "")
        out.text(done + said(change) if dry_run else with_undo(done + said(change), change))
    if dry_run:
        out.text("nothing written (dry run)")


def _from_to(change: Change, words: list[str]) -> str:
    return f"{words[1]}   (unchanged)" if change.is_empty else " → ".join(words)


def _version(change: Change, side: Any) -> str:
    if side is None:
        return "none"
    return f"{change.name}@{side['version']}" if "version" in side else "damaged"


def _tags(side: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in (side or {}).get("tags", {}).items()) or "none"


def _alias(change: Change) -> str:
    return str((change.new or change.old or {})["alias"])


def _identifier(change: Change) -> str:
    return f"{change.name}:{_alias(change)}" if change.verb == "alias" else change.reference
