"""`mwactl data cache`: pictures decoded and resized once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mwactl.cli.completion import complete_backbone
from mwactl.cli.options import DataName, Debug, DryRun, Json, OnError, Quiet
from mwactl.cli.output import Column, out, size
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.workflow.picture_cache import CachedData


def cache(
    name: DataName,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="For which backbone (mwactl backbones list); without weights.",
            autocompletion=complete_backbone,
        ),
    ] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Which split; may be repeated. [all]")] = None,
    crop_min_scale: Annotated[
        float | None,
        typer.Option(
            "--crop-min-scale",
            min=0.01,
            max=1,
            metavar="SHARE",
            help="For training with `augment: crop` or `colour`: the recipe's data.crop_min_scale.",
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete what was made for this data set.")] = False,
    on_error: OnError = "stop",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Pictures decoded at once. [one a core, at most 8]")
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Decode and resize pictures once, so that training and evaluation need not. (A recipe does so with data.cache=on.)

    As an evaluation shows them, the pixels stay the same to the bit. With --crop-min-scale pictures are kept larger,
    for random crops to be cut from: an approximation (a second interpolation).
    """
    if remove == (backbone is not None):
        raise UsageError(
            "--backbone says what to make, --remove deletes: one of the two is needed",
            fix=f"mwactl data cache {name} --backbone beit3-base, or mwactl data cache {name} --remove",
        )
    if remove:
        if dry_run:
            raise UsageError("--remove cannot be tried with --dry-run", fix=f"mwactl data cache {name} --remove")
        _forget(name)
        return
    from mwactl.workflow.picture_cache import cache_pictures

    policy: Literal["stop", "skip"] = "skip" if on_error == "skip" else "stop"
    made = cache_pictures(
        name, str(backbone), splits=split or [], crop_min_scale=crop_min_scale, on_error=policy, workers=workers,
        dry_run=dry_run, reporter=out,
    )  # fmt: skip
    document = _cached(name, made) | {"dry_run": dry_run}
    out.answer(document, human=lambda: _cache_table(document), identifier=document["folder"])
    if not dry_run:
        out.hint("mwactl train RECIPE data.cache=on" if crop_min_scale else f"mwactl eval --data {name}")


def _forget(name: str) -> None:
    from mwactl.workflow.picture_cache import forget_pictures

    freed = forget_pictures(name, reporter=out)
    out.answer(
        {"schema": 1, "name": name, "removed_bytes": freed},
        human=lambda: out.text(f"removed {size(freed)} of cached pictures of {name}"),
        identifier=name,
    )


def _cached(name: str, made: CachedData) -> dict[str, Any]:
    """What was cached, as JSON."""
    splits = {
        done.split: {
            "pictures": done.plan.pictures,
            "were_missing": done.plan.missing,
            "made": done.made,
            "missing_bytes": done.plan.size,
        }
        for done in made.splits
    }
    return {
        "schema": 1, "name": name, "folder": str(made.folder), "geometry": made.geometry, "exact": made.exact,
        "splits": splits,
    }  # fmt: skip


def _cache_table(document: dict[str, Any]) -> None:
    out.text(f"{document['name']}: {document['geometry']}" + ("" if document["exact"] else "   (an approximation)"))
    rows = [{"split": split, **counts} for split, counts in document["splits"].items()]
    columns = [
        Column("split", "split", keep=True),
        Column("pictures", "pictures", right=True, format="{:,}".format, keep=True),
        Column("were_missing", "not cached yet", right=True, format="{:,}".format, keep=True),
        Column("missing_bytes", "about", right=True, format=size, keep=True),
        Column("made", "made now", right=True, format="{:,}".format, keep=True),
    ]
    out.table(rows, columns)
    if document["dry_run"]:
        out.text("nothing written (dry run)")
