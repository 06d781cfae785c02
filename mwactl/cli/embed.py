"""`mwactl embed`: pictures or captions to a folder of embeddings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import BackboneNow, Debug, Device, Download, Json, Quiet, Weights
from mwactl.cli.output import out
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.search import Embedded

_FAILURES_SHOWN = 5


def embed(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="name, name@3, name:alias; or a bundle's folder.", autocompletion=complete_reference
        ),
    ],
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE…", help="A folder of pictures, tar shards, or a table (CSV, TSV, JSONL)."),
    ],
    to: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the embeddings go.")],
    texts: Annotated[bool, typer.Option("--texts", help="Captions instead: a .txt, or a column `caption`.")] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of what is stored: float16 (default) or float32.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures or captions a step.")] = 32,
    device: Device = "auto",
    backbone: BackboneNow = None,
    weights: Weights = None,
    download: Download = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Embed pictures (or captions) for searching. The same command again does what is new or changed.

    Pictures that cannot be read are listed in DIR/failed.jsonl and passed over.
    """
    if dtype not in (None, "float16", "float32"):
        raise UsageError(f"--dtype {dtype}: unknown", fix="--dtype float16, or --dtype float32")
    from mwactl.search import EmbedOptions
    from mwactl.workflow.search import ModelChoice, embed_sources

    options = EmbedOptions(
        what="texts" if texts else "images",
        dtype="float32" if dtype == "float32" else "float16" if dtype else None,
        batch_size=batch_size,
    )
    choice = ModelChoice(model, device, backbone, weights, download)
    done, document = embed_sources(choice, sources, to, options, out)
    _warn(done, to)
    out.answer(document, human=lambda: _describe(document), identifier=str(to))
    # A picture collection is asked with words; captions too, unless someone has a picture at hand.
    out.hint(f'mwactl search {shlex.quote(str(to))} "two dogs on a beach"')


def _warn(done: Embedded, to: Path) -> None:
    for failure in done.failures[:_FAILURES_SHOWN]:
        out.warn(f"{failure.place}: {failure.reason}")
    if done.failures:
        out.warn(f"{len(done.failures):,} pictures could not be read and were passed over; see {to / 'failed.jsonl'}")


def _describe(document: dict[str, Any]) -> None:
    what = "pictures" if document["what"] == "images" else "captions"
    changed = f" ({document['changed']:,} of them changed)" if document["changed"] else ""
    before = f", {document['unchanged']:,} were there already" if document["unchanged"] else ""
    out.text(f"embedded {document['embedded']:,} {what}{changed}{before}")
    out.text(
        f"{document['folder']}: {document['rows']:,} rows × {document['width']} {document['dtype']}, "
        f"by {document['model']['reference']}"
    )
