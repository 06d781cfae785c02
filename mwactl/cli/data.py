"""`mwactl data`: which captioned pictures there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.options import Debug, DryRun, Json, Quiet
from mwactl.cli.output import Column, out

if TYPE_CHECKING:
    from mwactl.data import CatalogueEntry

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
