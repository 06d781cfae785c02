"""`mwactl registry diff`."""

from __future__ import annotations

import re
import shutil
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, out, size
from mwactl.cli.registry.facts import plain

if TYPE_CHECKING:
    from mwactl.registry.diff import Difference, EntryDiff, FileDifference, TensorDistance

_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_PROBLEMS = 3
"""Tensors that cannot be compared are named up to here; the document of `--json` has all of them."""


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="One version: coco-mwa@3.", autocompletion=complete_reference)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other: coco-mwa@4.", autocompletion=complete_reference)],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare two versions: recipe, method, base, data, seed, versions, results, files, and tensors site by site."""
    from mwactl.registry import Registry
    from mwactl.registry.diff import diff as compare

    registry = Registry.default()
    found = compare(registry, registry.resolve(a), registry.resolve(b))
    out.answer(
        {"schema": 1, **found.as_dict()},
        human=lambda: _print(found),
        identifier="same" if found.same else "different",
    )
    out.hint(f"mwactl registry show {found.b['reference']}")


def _print(found: EntryDiff) -> None:
    names = [f"{side['reference']}  sha256:{side['digest'][:12]}" for side in (found.a, found.b)]
    out.text(f"A  {names[0]}")
    out.text(f"B  {names[1]}")
    if found.same:
        out.text("the same contents: equal manifests, so equal files, tensors, recipe and data")
    for section, differences in groupby(found.differences, key=lambda each: each.section):
        _table(section, [_fact(each) for each in differences])
    for (data, digest), metrics in groupby(found.metrics, key=lambda each: (each.data, each.digest)):
        on = f"results on {data}" + (f"  sha256:{digest[:12]}" if digest else "")
        _table(on, [_compared(each.metric, each.a, each.b) for each in metrics], numbers=True)
    if not found.same:
        _table("files", [_file(each) for each in found.files])
        _print_tensors(found.tensors)


def _table(title: str, rows: list[dict[str, Any]], *, numbers: bool = False) -> None:
    out.text(title)
    columns = [Column("what", "", keep=True), *(Column(side, side.upper(), numbers, keep=True) for side in "ab")]
    if numbers:
        columns.append(Column("difference", "B - A", right=True, keep=True))
    out.table(_fitting(rows), columns)


def _fitting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a terminal's width: what is too long is cut in its middle, for both ends tell. A pipe gets all of it."""
    if not sys.stdout.isatty():
        return rows
    width = shutil.get_terminal_size().columns
    key = min(max(len(row["what"]) for row in rows), width // 2)
    value = max(8, (width - key - 4) // 2)
    return [
        row | {"what": _cut(row["what"], key)} | {side: _cut(_shorter(row[side]), value) for side in "ab"}
        for row in rows
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width // 2]}…{text[len(text) - (width - 1) // 2 :]}"


def _shorter(text: str) -> str:
    return _DIGEST.sub(lambda digest: digest[0].removeprefix("sha256:")[:12], text)


def _fact(each: Difference) -> dict[str, Any]:
    a, b = ("-" if each.only == other else plain(value) for value, other in ((each.a, "b"), (each.b, "a")))
    return {"what": f"  {each.key}", "a": a, "b": b}


def _compared(metric: str, a: float | None, b: float | None) -> dict[str, Any]:
    row = {side: "-" if value is None else f"{value:.2f}" for side, value in (("a", a), ("b", b))}
    return {"what": f"  {metric}", **row, "difference": "" if a is None or b is None else f"{b - a:+.2f}"}


def _file(each: FileDifference) -> dict[str, Any]:
    if each.same:
        return {"what": f"  {each.path}", "a": "the same", "b": "the same"}
    sides = (("a", each.a, each.a_bytes), ("b", each.b, each.b_bytes))
    texts = {side: f"{digest} {size(length or 0)}" if digest else "-" for side, digest, length in sides}
    return {"what": f"  {each.path}", **texts}


def _print_tensors(tensors: list[TensorDistance]) -> None:
    if not tensors:
        return
    out.text("tensors")
    rows = [
        {"site": f"  {each.site}", "l2": _number(each.relative_l2), "cosine": _number(each.cosine), "n": each.tensors}
        for each in tensors
    ]
    columns = [
        Column("site", "", keep=True),
        Column("l2", "|A - B| / |A|", right=True, keep=True),
        Column("cosine", "COSINE", right=True, keep=True),
        Column("n", "COMPARED", right=True),
    ]
    out.table(rows, columns)
    problems = [problem.removeprefix("adapter.sites.") for each in tensors for problem in each.problems]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for problem in problems[:_PROBLEMS]:
        out.text(_cut(f"  {problem}", width) if width else f"  {problem}")
    if len(problems) > _PROBLEMS:
        out.text(f"  and {len(problems) - _PROBLEMS} more that cannot be compared (--json names them)")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
