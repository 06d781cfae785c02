"""`mwactl registry alias`."""

from __future__ import annotations

from typing import Annotated

import typer

from mwactl.cli.options import Debug, DryRun, Json, Quiet, SomeReference
from mwactl.cli.output import out
from mwactl.cli.registry.change import answer_changes
from mwactl.errors import UsageError


def alias(
    reference: SomeReference,
    word: Annotated[str, typer.Argument(metavar="ALIAS", help="The word, such as prod: then coco-mwa:prod works.")],
    delete: Annotated[bool, typer.Option("--delete", help="Take the alias away; REF is the name alone.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Let an alias lead to a version, or take it away. It stays there until it is moved."""
    from mwactl.registry import Registry, parse_reference

    registry = Registry.default(reporter=out)
    if delete:
        name = parse_reference(reference).name
        if reference.lower() != name:
            raise UsageError(
                f"{reference}: an alias is taken away from a name",
                fix=f"mwactl registry alias {name} {word} --delete" if name else "mwactl registry list",
            )
        change = registry.alias(name, word, None, dry_run=dry_run)
    else:
        entry = registry.locate(reference)
        change = registry.alias(entry.name, word, entry.version, dry_run=dry_run)
    answer_changes([change], dry_run=dry_run)
    out.hint(
        f"mwactl registry log {change.name}" if delete or dry_run else f"mwactl registry show {change.name}:{word}"
    )
