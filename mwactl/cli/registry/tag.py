"""`mwactl registry tag`."""

from __future__ import annotations

from typing import Annotated

import typer

from mwactl.cli.options import Debug, DryRun, Json, Quiet, SomeReference
from mwactl.cli.output import out
from mwactl.cli.registry.change import answer_changes
from mwactl.errors import UsageError


def tag(
    reference: SomeReference,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="What to say of it, such as reviewed-by=ann.")
    ] = None,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", metavar="KEY", help="Take a tag away; may be given again.")
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put words on a version, key=value each; its content and digest stay as they are."""
    from mwactl.registry import Registry
    from mwactl.registry.tags import parse_words

    if not words and not delete:
        raise UsageError(
            "nothing to do: no KEY=VALUE and no --delete KEY", fix=f"mwactl registry tag {reference} reviewed-by=ann"
        )
    registry = Registry.default(reporter=out)
    change = registry.tag(
        registry.locate(reference), parse_words(words or ()), list(dict.fromkeys(delete or ())), dry_run=dry_run
    )
    answer_changes([change], dry_run=dry_run)
    out.hint(f"mwactl registry show {change.reference}")
