"""`mwactl data`: which captioned pictures there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.data_cache import cache
from mwactl.cli.data_check import check
from mwactl.cli.data_remove import remove
from mwactl.cli.data_split import split
from mwactl.cli.options import DataName, Debug, DryRun, Json, Quiet
from mwactl.cli.output import Column, out
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.data import CatalogueEntry

app = typer.Typer(help="Data sets: captioned pictures, by name.", no_args_is_help=True)

_SPLIT_COLUMNS = [
    Column("split", "split", keep=True),
    Column("images", "pictures", right=True, format="{:,}".format, keep=True),
    Column("captions", "captions", right=True, format="{:,}".format, keep=True),
    Column("min", "a picture: min", right=True),
    Column("mean", "mean", right=True, format="{:.2f}".format),
    Column("max", "max", right=True),
]


@app.command(
    epilog="Example: mwactl data add flickr8k --annotations dataset_flickr8k.json --images images  "
    "Next: mwactl data check flickr8k"
)
def add(
    name: DataName,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations", help="The annotation file; of several their folder, or 'data/{000..127}.parquet'."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", help="The folder that picture paths start from; tar shards. [that of the annotations]"
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option("--format", help="auto, karpathy, coco, csv, tsv, jsonl, parquet, webdataset or folder."),
    ] = "auto",
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch pictures that are addresses (http, https) into mwactl's home, once."),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the data set of this name.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Read a data set and remember it by name. Pictures are looked for, not copied."""
    from mwactl.data import Catalogue

    entry = Catalogue.default().add(
        name,
        format=format,
        annotations=annotations,
        images=images,
        replace=replace,
        dry_run=dry_run,
        download=download,
        reporter=out,
    )
    document = _document(entry) | {"dry_run": dry_run}

    def human() -> None:
        how = f" ({entry.format})" if format == "auto" else ""
        out.text(f"{'would add' if dry_run else 'added'} {name}{how}")
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


@app.command(epilog="Example: mwactl data show flickr8k --sheet flickr8k.png  Next: mwactl data check flickr8k")
def show(
    name: DataName,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="PNG", help="Draw some pictures with their captions.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of which split the sheet is. [the first]")] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=400, help="How many pictures it shows.")] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which pictures: another one, others.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show a data set: its files, and the pictures and captions of each split."""
    from mwactl.data import Catalogue

    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UsageError("a sheet is a PNG file", where=str(sheet), fix=f"--sheet {sheet.with_suffix('.png')}")
    if split is not None and sheet is None:
        raise UsageError("--split chooses the pictures of a sheet", fix=f"add --sheet {name}.png")
    entry = Catalogue.default().get(name)
    document = _document(entry) | {"annotations_sha256": entry.annotations_digest()}
    if sheet is not None:
        document["sheet"] = str(sheet)
        _draw_sheet(entry, split or next(iter(document["splits"])), sheet, count, seed)

    def human() -> None:
        for key in ("name", "format", "images", "annotations", "annotations_sha256", "sheet"):
            if document.get(key) is not None:
                out.text(f"{key}\t{document[key]}")
        _split_table(document)

    out.answer(document, human=human, identifier=name)


def _draw_sheet(entry: CatalogueEntry, split: str, path: Path, count: int, seed: int) -> None:
    from mwactl.data.sheet import chosen, contact_sheet
    from mwactl.files import atomic_file

    dataset = entry.load(split)
    sheet = contact_sheet(dataset, chosen(dataset, count, seed))
    with atomic_file(path) as file:
        sheet.save(file, "PNG")


app.command(
    "cache",
    epilog="Example: mwactl data cache coco --backbone beit3-base --split val  Next: mwactl train coco data.cache=on",
)(cache)
app.command("check", epilog="Example: mwactl data check flickr8k --strict  Next: mwactl data split flickr8k")(check)
app.command(
    "split",
    epilog="Example: mwactl data split photos --val 0.1 --test 0.1 --seed 0  Next: mwactl data check photos-split",
)(split)
app.command("remove", epilog="Example: mwactl data remove photos-split  Next: mwactl data list")(remove)


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
