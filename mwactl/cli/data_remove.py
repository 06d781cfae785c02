"""`mwactl data remove`: forget a data set."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from mwactl.cli.options import DataName, Debug, DryRun, Json, Quiet
from mwactl.cli.output import out
from mwactl.errors import UsageError


def remove(
    name: DataName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Also where data sets were divided from it.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Forget a data set: its name alone. Pictures and annotations stay; of a divided one the index goes."""
    from mwactl.data import Catalogue

    catalogue = Catalogue.default()
    entry = catalogue.get(name)
    divisions = catalogue.divisions_of(name)
    if divisions and not yes:
        raise UsageError(
            f"{', '.join(divisions)}: divided from '{name}'; nothing was removed",
            why="they can be used without its name, but not divided anew",
            fix=f"{shlex.join(['mwactl', 'data', 'remove', divisions[0]])} first, or add --yes",
        )
    if not dry_run:
        catalogue.remove(name)
    document: dict[str, Any] = {"schema": 1, "name": name, "format": entry.format, "images": str(entry.images)}
    document |= {"divided": divisions, "dry_run": dry_run}
    said = "would forget" if dry_run else "forgot"
    out.answer(document, human=lambda: out.text(f"{said} {name}; {entry.images} stays"), identifier=name)
    out.hint("mwactl data list")
