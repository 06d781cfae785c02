"""`mwactl data`: which captioned pictures there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mwactl.cli.options import Debug, DryRun, Json, Quiet
from mwactl.cli.output import Column, out, size
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.data import CatalogueEntry
    from mwactl.workflow.picture_cache import CachedData

app = typer.Typer(help="Data sets: captioned pictures, by name.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What recipes call the data set.")]

_SPLIT_COLUMNS = [
    Column("split", "split", keep=True),
    Column("images", "pictures", right=True, format="{:,}".format, keep=True),
    Column("captions", "captions", right=True, format="{:,}".format, keep=True),
    Column("min", "a picture: min", right=True),
    Column("mean", "mean", right=True, format="{:.2f}".format),
    Column("max", "max", right=True),
]


@app.command(
    epilog="Example: mwactl data add flickr8k --format karpathy --annotations dataset_flickr8k.json --images images  "
    "Next: mwactl data show flickr8k"
)
def add(
    name: Name,
    format: Annotated[str, typer.Option("--format", help="karpathy, csv, tsv, jsonl or folder.")],
    images: Annotated[Path, typer.Option("--images", help="The folder that picture paths start from.")],
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="The annotation file (all formats but folder).")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the data set of this name.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check a data set and remember it by name. Pictures are looked for, not copied."""
    from mwactl.data import Catalogue

    entry = Catalogue.default().add(
        name,
        format=format,
        annotations=annotations,
        images=images,
        replace=replace,
        dry_run=dry_run,
        reporter=out,
    )
    document = _document(entry) | {"dry_run": dry_run}

    def human() -> None:
        out.text(f"would add {name}" if dry_run else f"added {name}")
        _split_table(document)

    out.answer(document, human=human, identifier=name)
    if not dry_run:
        out.hint(f"mwactl data show {name}")


@app.command("list", epilog="Example: mwactl data list  Next: mwactl data show NAME")
def list_(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the data sets that were added."""
    from mwactl.data import Catalogue

    rows = [_facts(entry) for entry in Catalogue.default().entries()]
    columns = [
        Column("name", "name", keep=True),
        Column("format", "format", keep=True),
        Column("images", "pictures in"),
    ]
    out.answer(
        {"schema": 1, "datasets": rows},
        human=lambda: out.table(rows, columns) if rows else out.info("no data sets so far"),
        identifier="\n".join(row["name"] for row in rows),
    )
    if not rows:
        out.hint("mwactl data add NAME --format karpathy --annotations FILE --images DIR")


@app.command(epilog="Example: mwactl data show flickr8k --json  Next: mwactl recipes list")
def show(name: Name, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Show a data set: its files, and the pictures and captions of each split."""
    from mwactl.data import Catalogue

    entry = Catalogue.default().get(name)
    document = _document(entry) | {"annotations_sha256": entry.annotations_digest()}

    def human() -> None:
        for key in ("name", "format", "images", "annotations", "annotations_sha256"):
            if document[key] is not None:
                out.text(f"{key}\t{document[key]}")
        _split_table(document)

    out.answer(document, human=human, identifier=name)


@app.command(
    epilog="Example: mwactl data cache coco --backbone beit3-base --split val  Next: mwactl train coco data.cache=on"
)
def cache(
    name: Name,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="For which backbone (mwactl backbones list); without weights."),
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
    on_error: Annotated[str, typer.Option("--on-error", help="A picture that cannot be read: stop or skip.")] = "stop",
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
    if on_error not in ("stop", "skip"):
        raise UsageError(f"--on-error {on_error}: unknown", fix="--on-error stop, or --on-error skip")
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


def _facts(entry: CatalogueEntry) -> dict[str, Any]:
    """Where a data set is."""
    return {
        "name": entry.name,
        "format": entry.format,
        "annotations": str(entry.annotations) if entry.annotations else None,
        "images": str(entry.images),
    }


def _document(entry: CatalogueEntry) -> dict[str, Any]:
    """A data set as JSON."""
    splits = {
        split: {
            "images": counts.images,
            "captions": counts.captions,
            "captions_per_image": {
                "min": counts.captions_min,
                "mean": counts.captions_mean,
                "max": counts.captions_max,
            },
        }
        for split, counts in entry.splits().items()
    }
    return {"schema": 1} | _facts(entry) | {"splits": splits}


def _split_table(document: dict[str, Any]) -> None:
    """A line a split."""
    rows = [
        {"split": split, "images": counts["images"], "captions": counts["captions"]} | counts["captions_per_image"]
        for split, counts in document["splits"].items()
    ]
    out.table(rows, _SPLIT_COLUMNS)
