"""`mwactl eval`: retrieval metrics, both ways."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from mwactl.cli.completion import complete_backbone, complete_reference
from mwactl.cli.options import (
    Data,
    Debug,
    Device,
    Download,
    Json,
    OnError,
    Protocol,
    Quiet,
    Split,
    Weights,
    ZeroShot,
)
from mwactl.cli.output import Column, duration, out
from mwactl.errors import UsageError


def evaluate(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="[REF]",
            help="An adapter: name, name@3, name:alias, ./folder. Default: the newest.",
            autocompletion=complete_reference,
        ),
    ] = None,
    data: Data = None,
    zero_shot: ZeroShot = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="Without REF: evaluate it bare. With REF: where its backbone's folder is now.",
            autocompletion=complete_backbone,
        ),
    ] = None,
    split: Split = "test",
    protocol: Protocol = "full",
    weights: Weights = None,
    seed: Annotated[int, typer.Option("--seed", help="Of `--weights random`.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures or captions a step.")] = 256,
    device: Device = "auto",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, fp16; ranks are always fp32.")] = "fp32",
    on_error: OnError = "stop",
    download: Download = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Evaluate retrieval: R@1/5/10 and RSUM with 95 % intervals, median and mean rank, both ways.

    Each picture and caption is encoded once; a picture counts as found if any of its captions is in the top k; ties
    count against the model. Intervals are of the bootstrap over pictures: how far the numbers move with other queries
    of this kind. The result of an adapter is kept with its version, and the rank of every query for mwactl compare.
    """
    name = _data_name(data, zero_shot, reference, backbone)
    from mwactl.backbone import WeightsRequest
    from mwactl.registry import Registry
    from mwactl.workflow.evaluate import EvaluationOptions, evaluate_adapter, evaluate_backbone
    from mwactl.workflow.facts import was_trained
    from mwactl.workflow.load import build_backbone
    from mwactl.workflow.splits import checked_split

    began = time.monotonic()
    options = EvaluationOptions(protocol=protocol, batch_size=batch_size, device=device, precision=precision)
    registry = Registry.default(reporter=out)
    entry = None if backbone and reference is None else registry.resolve(reference)
    if entry is not None and reference is None:
        untrained = "" if was_trained(registry, entry) else " (untrained)"
        out.info(f"evaluating the newest adapter, {entry.reference}{untrained}")
    checked = checked_split(name, split, on_error="skip" if on_error == "skip" else "stop", reporter=out)
    if entry is None:
        model = build_backbone(str(backbone), WeightsRequest(weights, seed, download, out))
        document = evaluate_backbone(model, checked, options, out).document
    else:
        document = evaluate_adapter(
            registry, entry, checked, options, out,
            zero_shot=zero_shot is not None, backbone_name=backbone, weights=weights, download=download,
        ).document  # fmt: skip
    took = duration(time.monotonic() - began)
    out.answer(document, human=lambda: _describe(document, took), identifier=f"{document['rsum']:.1f}")
    out.hint(f"mwactl registry show {entry.reference}" if entry else f"mwactl inject --backbone {backbone}")


def _data_name(data: str | None, zero_shot: str | None, reference: str | None, backbone: str | None) -> str:
    if (data is None) == (zero_shot is None):
        raise UsageError("exactly one of --data and --zero-shot says what to evaluate on", fix="mwactl data list")
    if backbone is not None and reference is None and zero_shot is not None:
        raise UsageError(
            "--backbone without REF evaluates a bare backbone with --data",
            why="the check of --zero-shot belongs to adapters: what a backbone was trained on is unknown",
            fix=f"mwactl eval --backbone {backbone} --data {data or zero_shot}",
        )
    name = data or zero_shot
    assert name is not None
    return name


def _describe(document: dict[str, Any], took: str) -> None:
    data, adapter = document["data"], document["adapter"]
    who = adapter["reference"] if adapter else document["backbone"]["name"]
    claim = "   zero-shot: checked" if document["zero_shot"] else ""
    out.text(
        f"{who} on {data['name']} {data['split']}: {document['images']:,} pictures × {document['texts']:,} captions, "
        f"protocol {document['protocol']}{claim}"
    )
    rows = [
        {"direction": "image→text", **document["image_to_text"], **_margins(document, "image_to_text")},
        {"direction": "text→image", **document["text_to_image"], **_margins(document, "text_to_image")},
    ]
    recalls = [
        column
        for k in (1, 5, 10)
        for column in (
            Column(f"R@{k}", f"R@{k}", right=True, format="{:.1f}".format, keep=True),
            Column(f"±R@{k}", "±", right=True),
        )
    ]
    out.table(
        rows,
        [
            Column("direction", "", keep=True),
            *recalls,
            Column("median_rank", "median rank", right=True, format="{:g}".format),
            Column("mean_rank", "mean rank", right=True, format="{:.1f}".format),
        ],
    )
    intervals = document["intervals"]
    margin = f" ± {_half(intervals['rsum'])}" if intervals else ""
    out.text(f"RSUM {document['rsum']:.1f}{margin}   data {data['digest'][:12]}…   {took}")
    if intervals:
        out.text(f"±: half of the {100 * intervals['level']:g} % interval over pictures; --json has both ends")


def _margins(document: dict[str, Any], direction: str) -> dict[str, str]:
    intervals = document["intervals"]
    return {f"±{name}": _half(ends) for name, ends in intervals[direction].items()} if intervals else {}


def _half(ends: list[float]) -> str:
    return f"{(ends[1] - ends[0]) / 2:.1f}"
