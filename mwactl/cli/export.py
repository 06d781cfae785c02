"""`mwactl export`: a folder that computes the same without torch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_data, complete_reference
from mwactl.cli.options import BackboneNow, Debug, Download, Json, Quiet, Weights
from mwactl.cli.output import duration, out, size
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.export.parity import DType


def export(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="[REF]",
            help="An adapter or a merged model: name, name@3, name:alias, ./folder. Default: the newest.",
            autocompletion=complete_reference,
        ),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="As ONNX graphs: the only format there is.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="The folder (default: ./REF-onnx).")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, or fp16 for GPUs.")] = "fp32",
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="int8", help="int8: smaller and faster on a CPU, not exact.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="METRIC=BOUND",
            help="What may be lost, as often as needed: t2i.R@1=0.5, i2t.R@5=1, rsum=3 (points; with --data), or the "
            "agreement to keep: top10=95 (percent; of 100 pictures or more). int8 without a gate: top10=90.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Measure on a data set, with recall (default: packaged drawings).",
            autocompletion=complete_data,
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Which split of it.")] = "test",
    limit: Annotated[int, typer.Option("--limit", min=10, help="At most so many of its pictures.")] = 1000,
    opset: Annotated[int, typer.Option("--opset", help="The version of the ONNX operators.")] = 20,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle that is there.")] = False,
    backbone: BackboneNow = None,
    weights: Weights = None,
    download: Download = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export an adapter with its backbone as one model, to be used without torch, and prove that it is the same.

    Writes a folder: two ONNX graphs (pictures, captions), tokenizer, preprocessing, a runtime of one file, and test
    vectors. The folder appears only when its embeddings, from the picture's file to the ranking, are torch's.
    """
    chosen = _checked_dtype(onnx, dtype, quantize)
    from mwactl.export.gate import parse_gates
    from mwactl.registry import Registry
    from mwactl.workflow.export import ExportOptions, default_target, export_onnx
    from mwactl.workflow.splits import checked_split

    began = time.monotonic()
    options = ExportOptions(dtype=chosen, bounds=parse_gates(gate or []), opset=opset, force=force)
    registry = Registry.default(reporter=out)
    entry = registry.resolve(reference)
    if reference is None:
        out.info(f"exporting the newest entry, {entry.reference}")
    measured = None if data is None else checked_split(data, split, on_error="stop", reporter=out)
    document = export_onnx(
        registry, entry, output or default_target(entry, chosen), options,
        split=measured, limit=limit, backbone_name=backbone, weights=weights, download=download, reporter=out,
    )  # fmt: skip
    took = duration(time.monotonic() - began)
    out.answer(document, human=lambda: _describe(document, took), identifier=document["folder"])
    folder = document["folder"]
    out.hint(f"mwactl verify {folder}   or: mwactl embed {folder} PICTURES -o COLLECTION")


def _checked_dtype(onnx: bool, dtype: str, quantize: str | None) -> DType:
    if not onnx:
        raise UsageError("--onnx is missing", why="it is the only format there is", fix="mwactl export REF --onnx")
    if dtype not in ("fp32", "fp16"):
        raise UsageError(f"--dtype {dtype}: unknown", fix="--dtype fp32 or --dtype fp16; int8 is --quantize int8")
    if quantize is None:
        return "fp16" if dtype == "fp16" else "fp32"
    if quantize != "int8":
        raise UsageError(f"--quantize {quantize}: unknown", fix="--quantize int8")
    if dtype != "fp32":
        raise UsageError("--quantize int8 leaves the rest in fp32", fix="leave out --dtype, or --quantize")
    return "int8"


def _describe(document: dict[str, Any], took: str) -> None:
    adapter, parity, measured = document["adapter"], document["parity"], document["measured_on"]
    folded = "folded into its backbone" if adapter["kind"] == "adapter" else "as it is"
    out.text(f"{adapter['reference']}   {adapter['kind']}, {folded}")
    sizes = "   ".join(f"{name} {size(count)}" for name, count in document["sizes"].items())
    length = "length" if document["text_length"] is None else f"length fixed at {document['text_length']}"
    out.text(f"{sizes}   opset {document['opset']}   {document['dtype']}   dynamic batch, {length}")
    for reason in document["kept"]:
        out.text(f"not folded: {reason}")
    if document["int8"]:
        _describe_int8(document["int8"])
    towers = (parity["image"], parity["text"])
    top10 = "–" if parity["top10"] is None else f"{parity['top10']:.2f} %"
    out.text(
        f"against torch   max |Δ| {max(tower['max_abs'] for tower in towers):.1e}   "
        f"cosine ≥ {min(tower['min_cosine'] for tower in towers):.7f}   "
        f"top-10 agreement {top10}   "
        f"({measured['data']}: {measured['pictures']:,} pictures, {measured['captions']:,} captions) ✓"
    )
    for name in ("i2t.R@1", "t2i.R@1", "rsum") if parity["recall"] else ():
        found = parity["recall"][name]
        out.text(f"{name}   torch {found['torch']:.2f}   exported {found['exported']:.2f}   {found['change']:+.2f}")
    for bound in document["gate"]:
        out.text(f"gate {bound['metric']}={bound['bound']:g} ✓")
    out.text(f"written: {document['folder']}   {took}")


def _describe_int8(int8: dict[str, Any]) -> None:
    for tower, found in int8["towers"].items():
        out.text(
            f"{tower} tower   {found['maps']} of {found['of_maps']} linear maps in int8, "
            f"{100 * found['share']:.0f} % of its numbers"
        )
    if spared := int8["spared"]:
        out.text(
            "spared, the most damaging first: " + ", ".join(f"{block['tower']} {block['name']}" for block in spared)
        )
