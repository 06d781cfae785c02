"""`mwactl search`: what words or a picture find in a folder of embeddings."""

from __future__ import annotations

import json as json_module
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import BackboneNow, Debug, Device, Download, Json, Quiet, Weights
from mwactl.cli.output import Column, out
from mwactl.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from mwactl.search.found import Found
    from mwactl.workflow.search import Query


def search(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What mwactl embed wrote.")],
    words: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="What to look for, in words.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    image: Annotated[Path | None, typer.Option("--image", help="Look for what is like this picture.")] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help="A query a line; prints a line of JSON for each.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="FIELD=VALUE", help="Only such rows; also !=, <, <=, > and >=."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Where the embeddings' model is now, such as a bundle.", autocompletion=complete_reference
        ),
    ] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", metavar="PNG", help="Also draw a contact sheet.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page with pictures.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every vector, also where there is an index.")] = False,
    device: Device = "auto",
    backbone: BackboneNow = None,
    weights: Weights = None,
    download: Download = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search embeddings with words or a picture, by the model that made them."""
    if sum(given is not None for given in (words, image, queries)) != 1:
        raise UsageError(
            "exactly one of QUERY, --image and --queries says what to look for",
            fix=f'mwactl search {shlex.quote(str(folder))} "two dogs on a beach"',
        )
    _check_places(folder, sheet, html)
    from mwactl.workflow.search import ModelChoice, Query, SearchOptions, search_collection

    asked = _lines(queries, Query) if queries else [Query(text=words, image=image)]
    choice = ModelChoice(model, device, backbone, weights, download)
    found, document = search_collection(folder, asked, choice, SearchOptions(k, tuple(where or ()), exact), out)
    _illustrate(found, document, sheet, html)
    single = found[0]
    if queries is None:
        results = document.pop("queries")
        document |= results[0]
    out.answer(
        document,
        human=(lambda: _print_lines(document)) if queries else (lambda: _print_table(single)),
        identifier="\n".join(result.item.id for one in found for result in one.results),
    )
    if not any(one.results for one in found):
        out.warn("nothing was found" + (": no row fulfils the conditions" if where else ": there are no rows"))


def _lines(file: Path, query: Callable[..., Query]) -> list[Query]:
    from mwactl.data.formats.text import read_text

    if not file.exists():
        raise NotFoundError("no such file of queries", where=str(file), fix="check --queries")
    lines = [line.strip() for line in read_text(file).split("\n")]
    if not any(lines):
        raise UsageError("there is no query in the file", where=str(file), fix="write one a line")
    return [query(text=line) for line in lines if line]


def _check_places(folder: Path, sheet: Path | None, html: Path | None) -> None:
    """Tell before the search what would be told after it."""
    if sheet:
        from mwactl.search.manifest import read_manifest

        if sheet.suffix.lower() != ".png":
            raise UsageError(f"--sheet {sheet}: a contact sheet is a PNG", fix=f"--sheet {sheet.stem}.png")
        if read_manifest(folder).what == "texts":
            raise UsageError("captions have no contact sheet", fix="use --html, or search a folder of pictures")
    if html and html.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {html}: a page ends in .html", fix=f"--html {html.stem}.html")


def _illustrate(found: list[Found], document: dict[str, Any], sheet: Path | None, html: Path | None) -> None:
    """Write the contact sheet and the page."""
    missing = 0
    if sheet:
        from mwactl.search.sheet import contact_sheet

        missing = contact_sheet(found, sheet)
        out.info(f"wrote {sheet}")
    if html:
        from mwactl.search.page import write_page

        about = f"{document['rows']:,} rows by {document['model']['reference']}, {document['method']} search"
        missing = write_page(found, html, title=f"Search in {document['folder']}", about=about)
        out.info(f"wrote {html}")
    if missing:
        out.warn(f"{missing:,} of the pictures are not where they were embedded from, and are left blank")


def _print_lines(document: dict[str, Any]) -> None:
    """A line of JSON a query: in ASCII, so that nothing of it depends on the terminal."""
    for one in document["queries"]:
        out.text(json_module.dumps({"schema": 1, **one}))


def _print_table(found: Found) -> None:
    rows = [
        {
            "rank": result.rank,
            "score": result.score,
            "id": result.item.id,
            "what": result.item.text or result.item.place,
            "fields": "  ".join(f"{name}={value}" for name, value in result.item.fields.items()),
        }
        for result in found.results
    ]
    columns = [
        Column("rank", "rank", right=True, keep=True),
        Column("score", "score", right=True, format="{:.4f}".format, keep=True),
        Column("id", "id", format=_one_line, keep=True),
        Column("what", "what", format=_one_line),
        Column("fields", "fields", format=_one_line),
    ]
    out.table(rows, columns)


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
