"""`mwactl data split`: train, val and test of a data set, made anew."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mwactl.cli.options import DataName, Debug, DryRun, Json, Quiet
from mwactl.cli.output import Column, out


def split(
    name: DataName,
    val: Annotated[float, typer.Option("--val", help="The share of the pictures to choose a model by.")] = 0.1,
    test: Annotated[float, typer.Option("--test", help="The share of the pictures to report numbers of.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Another one, another division.")] = 0,
    new_name: Annotated[str | None, typer.Option("--as", metavar="NEW", help="Its name. [NAME-split]")] = None,
    distance: Annotated[
        int, typer.Option("--distance", min=0, max=32, help="Bits of 64 that may differ in near duplicates.")
    ] = 8,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the data set of the new name.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Divide all pictures of a data set by chance, and remember the result as a data set. No file of yours is touched.

    A picture's captions stay together, and so do pictures that are the same or look so. The same pictures, shares and
    seed give the same splits, wherever the files lie.
    """
    from mwactl.workflow.data_split import SplitOptions, split_data

    options = SplitOptions(val=val, test=test, seed=seed, distance=distance)
    made = split_data(name, options, new_name=new_name, replace=replace, dry_run=dry_run, reporter=out)
    new_name = made.entry.name
    document: dict[str, Any] = {
        "schema": 1,
        "name": new_name,
        "source": name,
        "index": str(made.entry.annotations),
        "val": val,
        "test": test,
        "seed": seed,
        "distance": distance,
        "splits": {
            split: {"images": images, "captions": captions} for split, (images, captions) in made.splits.items()
        },
        "kept_together": made.kept_together,
        "dry_run": dry_run,
    }
    out.answer(document, human=lambda: _print(document), identifier=new_name)
    if not dry_run:
        out.hint(f"mwactl data check {new_name}")


def _print(document: dict[str, Any]) -> None:
    out.text(f"{'would divide' if document['dry_run'] else 'divided'} {document['source']} into {document['name']}")
    rows = [{"split": split, **counts} for split, counts in document["splits"].items()]
    columns = [
        Column("split", "split", keep=True),
        Column("images", "pictures", right=True, format="{:,}".format, keep=True),
        Column("captions", "captions", right=True, format="{:,}".format, keep=True),
    ]
    out.table(rows, columns)
    if document["kept_together"]:
        out.info(f"{document['kept_together']:,} pictures stay with another that is the same or looks so")
