"""How a family tree looks: drawn on a terminal, indented where a program reads it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mwactl.cli.output import out
from mwactl.cli.registry.facts import spellable

if TYPE_CHECKING:
    from mwactl.registry.tree import FamilyTree, Member


def print_tree(tree: FamilyTree) -> None:
    """Each member, and under it what is known of it, before what was made from it."""
    lines = [
        (depth, text)
        for member in tree.members
        for depth, text in [(member.depth, title(member)), *((member.depth + 1, fact) for fact in facts(member))]
    ]
    if sys.stdout.isatty():
        for line in _drawn(lines):
            out.text(line)
    else:
        for depth, text in lines:
            out.text("  " * (depth + 1) + text)


_UNNAMED = "data that it does not name"


def title(member: Member) -> str:
    """One line: what it is called, how it was made, its digest."""
    if member.made == "backbone":
        known = member.facts
        return f"{known['backbone']}  backbone  fingerprint {_digest(known.get('fingerprint'), 'not recorded')}"
    state = {"missing": "no longer in this registry", "corrupt": "corrupt"}.get(member.state)
    named = ", ".join(member.references)
    digest = _digest(member.digest)
    how = " ".join(filter(None, (member.made, member.facts.get("method") if member.made == "injected" else None)))
    parts = [named or (digest if state else "no name"), state or how, digest if named or not state else None]
    if member.other_parents:
        parts.append("also from " + ", ".join(_digest(parent) for parent in member.other_parents))
    if member.again:
        parts.append("(see above)")
    if member.shown:
        parts.append("(this one)")
    return "  ".join(part for part in parts if part)


def facts(member: Member) -> Iterator[str]:
    """A line each: weights, data, recipe, evaluations."""
    known = member.facts
    weights = known.get("weights")
    if isinstance(weights, dict):
        seed = "" if weights.get("seed") is None else f", seed {weights['seed']}"
        yield f"weights {weights.get('source')}{seed}  {_digest(weights.get('file_sha256'))}".rstrip()
    for used in (each for each in known.get("data", []) if isinstance(each, dict)):
        counts = f"{_count(used.get('images'))} pictures, {_count(used.get('captions'))} captions"
        yield f"data {used.get('name')} {used.get('split')}: {counts}  {_digest(used.get('digest'))}".rstrip()
    if member.made == "trained":
        details = [f"{word} {known[key]}" for key, word in _TRAINING.items() if known.get(key) is not None]
        yield f"recipe {_digest(known.get('recipe_digest'), 'not recorded')}" + "".join(f", {each}" for each in details)
    if isinstance(imported := known.get("imported"), dict):
        yield f"imported from {imported.get('file')}  {_digest(imported.get('sha256'))}".rstrip()
    yield from map(_measured, _newest(member.evaluations))


_TRAINING = {"seed": "seed", "steps": "steps", "best_epoch": "best epoch"}


def _newest(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last of each data set, split and protocol."""
    by_kind = {str([each[key] for key in ("name", "split", "digest", "protocol")]): each for each in evaluations}
    return list(by_kind.values())


def _measured(evaluation: dict[str, Any]) -> str:
    where = " ".join(str(part) for part in (evaluation["name"], evaluation["split"]) if part) or _UNNAMED
    numbers = {
        "RSUM": evaluation["rsum"],
        "t2i R@1": _recall(evaluation["text_to_image"]),
        "i2t R@1": _recall(evaluation["image_to_text"]),
    }
    shown = "  ".join(f"{name} {value:.1f}" for name, value in numbers.items() if isinstance(value, int | float))
    return f"eval {where}: {shown or 'no numbers'}" + ("  zero-shot" if evaluation["zero_shot"] else "")


def _recall(recalls: Any) -> Any:
    return recalls.get("R@1") if isinstance(recalls, dict) else None


def _digest(digest: Any, absent: str = "") -> str:
    """`sha256:` and 12 digits of a digest; a reference stays what it is."""
    if not digest:
        return absent
    bare = str(digest).removeprefix("sha256:")
    return f"sha256:{bare[:12]}" if len(bare) == 64 else bare


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else "?"


def _drawn(lines: list[tuple[int, str]]) -> list[str]:
    """The lines as a tree that fits the terminal: cut, never wrapped; rich draws it in ASCII where it has to."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    terminal = shutil.get_terminal_size()  # asked here, for rich takes 80 columns where TERM is "dumb"
    columns = terminal.columns - (0 if spellable("…") else 2)  # the sign for a cut becomes three dots
    console = Console(file=sys.stdout, width=columns, height=terminal.lines, highlight=False)
    whole = Tree("", hide_root=True)
    branches = [whole]
    for depth, text in lines:
        del branches[depth + 1 :]
        branches.append(branches[depth].add(Text(text, no_wrap=True, overflow="ellipsis")))
    with console.capture() as capture:
        console.print(whole)
    return [line.rstrip() for line in capture.get().splitlines()]
