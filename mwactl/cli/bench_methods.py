"""`mwactl bench methods`: one recipe, several methods, one table."""

from __future__ import annotations

import json as json_module
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mwactl.cli.options import Debug, Download, Json, Overrides, Quiet
from mwactl.cli.output import Column, duration, out
from mwactl.cli.recipes import SomeRecipe, announce
from mwactl.errors import UsageError


def methods(
    recipe: SomeRecipe,
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option("--methods", metavar="A,B,…", help="head, bitfit, lora, mwa-ke, mwa-ae, mwa, mwa-head, full.")
    ] = "head,bitfit,lora,mwa-ke,mwa-ae,mwa,full",
    baseline: Annotated[str, typer.Option("--baseline", help="The method that the others are compared with.")] = "mwa",
    lr: Annotated[
        list[str] | None,
        typer.Option("--lr", metavar="METHOD=RATE", help="A method's own train.lr (full: a tenth of the recipe's)."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="What is evaluated.")] = "test",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the JSON document here.")] = None,
    download: Download = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train one recipe by several methods, evaluate all on the same queries, and compare them.

    Same data, loop, schedule and seed; intervals and paired tests as in mwactl compare. What was trained already is not
    trained again: the same command goes on where it was stopped.
    """
    from mwactl.config import load_recipe
    from mwactl.files import atomic_write
    from mwactl.registry import Registry
    from mwactl.workflow.methods import compare_methods

    announce(load_recipe(recipe, overrides or []))
    document = compare_methods(
        Registry.default(reporter=out),
        lambda more: load_recipe(recipe, [*(overrides or []), *more]),
        [name for name in methods.split(",") if name],
        out,
        rates=_rates(lr or []),
        baseline=baseline,
        split=split,
        download=download,
        command=shlex.join(["mwactl", *sys.argv[1:]]),
    )
    if output is not None:
        atomic_write(output, (json_module.dumps(document, indent=2) + "\n").encode())
    rows = document["methods"]
    identifier = "\n".join(f"{row['method']}\t{row['metrics']['rsum']:.1f}" for row in rows)
    out.answer(document, human=lambda: _describe(document), identifier=identifier)
    references = " ".join(row["reference"] for row in rows[-2:])
    out.hint(f"mwactl compare {references} --data {document['data']['name']} --split {split}")


def _rates(given: list[str]) -> dict[str, float]:
    rates = {}
    for each in given:
        method, _, rate = each.partition("=")
        try:
            rates[method] = float(rate)
        except ValueError as error:
            raise UsageError(f"--lr {each} is not METHOD=RATE", fix="--lr full=5e-5") from error
    return rates


def _describe(document: dict[str, Any]) -> None:
    data, recipe, baseline = document["data"], document["recipe"], document["baseline"]
    out.text(
        f"{recipe['name']} on {recipe['backbone']}, {recipe['epochs']} epochs; {data['name']} {data['split']}: "
        f"{document['images']:,} pictures × {document['texts']:,} captions"
    )
    number = "{:.1f}".format
    rows = [_cells(row) for row in document["methods"]]
    out.table(
        rows,
        [
            Column("method", "method", keep=True),
            Column("trained", "trained", right=True, keep=True),
            Column("t2i.R@1", "t2i R@1", right=True, format=number),
            Column("i2t.R@1", "i2t R@1", right=True, format=number),
            Column("rsum", "RSUM", right=True, keep=True),
            Column("change", f"against {baseline}", right=True, keep=True),
            Column("p", "p (Holm)", right=True),
            Column("seconds_per_step", "s/step", right=True),
            Column("took", "trained in", right=True),
        ],
    )


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    cells = {"method": row["method"], **row["metrics"], "rsum": f"{row['metrics']['rsum']:.1f}"}
    if row.get("intervals"):
        low, high = row["intervals"]["rsum"]
        cells["rsum"] += f" [{low:.1f}, {high:.1f}]"
    if against := row["against_baseline"]:
        change = against["rsum"]
        ends = "" if change["interval"] is None else " [{:+.1f}, {:+.1f}]".format(*change["interval"])
        cells |= {"change": f"{change['difference']:+.1f}{ends}", "p": f"{change['p_holm']:.2g}"}
    if "trained_parameters" in row:
        cells["trained"] = f"{row['trained_parameters']:,} ({row['trained_share']:.1%})"
        cells["took"] = duration(row["seconds"])
        if row["seconds_per_step"] is not None:
            cells["seconds_per_step"] = f"{row['seconds_per_step']:.3g}"
    return cells
