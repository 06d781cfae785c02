"""`mwactl registry rm`."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mwactl.cli.options import Debug, DryRun, Json, Quiet, SomeReferences, Yes
from mwactl.cli.output import out
from mwactl.cli.registry.change import answer_changes
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.registry import Registry
    from mwactl.registry.change import Change


def rm(
    references: SomeReferences,
    undo: Annotated[bool, typer.Option("--undo", help="Bring back versions that were removed: NAME@N.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also with aliases; they go too.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove versions. Numbers are never given again, and the content stays until `mwactl registry gc --apply`."""
    from mwactl.registry import Registry

    registry = Registry.default(reporter=out)
    if undo:
        changes = _restore(registry, references, dry_run=dry_run)
    else:
        changes = _remove(registry, references, force=force, yes=yes, dry_run=dry_run)
    answer_changes(changes, dry_run=dry_run)
    out.hint("mwactl registry list" if undo else "mwactl registry gc   (says what could be deleted)")


def _remove(registry: Registry, references: list[str], *, force: bool, yes: bool, dry_run: bool) -> list[Change]:
    entries = list({(entry.name, entry.version): entry for entry in map(registry.locate, references)}.values())
    changes = [change for entry in entries for change in registry.remove(entry, force=force, dry_run=True)]
    if dry_run:
        return changes
    _confirm([entry.reference for entry in entries], yes=yes)
    return [change for entry in entries for change in registry.remove(entry, force=force)]


def _confirm(references: list[str], *, yes: bool) -> None:
    """Ask, where somebody can answer.

    Raises:
        UsageError: Nobody can, and nobody said --yes; or the answer was no.
    """
    if yes:
        return
    again = shlex.join(["mwactl", "registry", "rm", *references, "--yes"])
    if not sys.stdin.isatty():
        raise UsageError("removing needs --yes where nobody can be asked; nothing was removed", fix=again)
    if not typer.confirm(f"remove {', '.join(references)}?", err=True):
        raise UsageError("not confirmed; nothing was removed", fix=again)


def _restore(registry: Registry, references: list[str], *, dry_run: bool) -> list[Change]:
    from mwactl.registry import parse_reference

    wanted = [(parsed.name, parsed.version) for parsed in map(parse_reference, references)]
    changes = []
    for typed, (name, version) in zip(references, wanted, strict=True):
        if version is None:
            fix = f"mwactl registry log {name}   (it says which were removed)" if name else "mwactl registry list"
            raise UsageError(f"{typed}: --undo needs the number of a version, NAME@N", fix=fix)
        changes.append((name, version, registry.restore(name, version, dry_run=True)))
    return [change if dry_run else registry.restore(name, version) for name, version, change in changes]
