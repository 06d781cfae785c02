"""`mwactl compare`: is one model better than another, or does it only look so?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_reference
from mwactl.cli.options import Data, Debug, Download, Json, OnError, Protocol, Quiet, Split, ZeroShot
from mwactl.cli.output import Column, out
from mwactl.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from mwactl.workflow.compare import By


def compare(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="REF REF…",
            help="The baseline, then what is compared with it: versions, or names of backbones without an adapter.",
            autocompletion=complete_reference,
        ),
    ],
    data: Data = None,
    zero_shot: ZeroShot = None,
    split: Split = "test",
    protocol: Protocol = "full",
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="length|tag", help="Also compare parts: short and long captions, tags."),
    ] = None,
    fail_below: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-below",
            metavar="METRIC=POINTS",
            help="Exit with 5 where a difference to the baseline is below, as often as needed: t2i.R@1=-0.5, rsum=0.",
        ),
    ] = None,
    stored: Annotated[
        bool, typer.Option("--stored", help="Evaluate nothing: only ranks that an evaluation has kept.")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures or captions a step.")] = 256,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N; of an evaluation.")] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="Of the towers: fp32, bf16, fp16. [kept ranks of any, else fp32]"),
    ] = None,
    on_error: OnError = "stop",
    download: Download = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare models on the same queries: differences with 95 % intervals and p values.

    Paired bootstrap over pictures, their captions kept together; McNemar's test at R@1; the smallest difference that
    this test set can show. Ranks that evaluations have kept are used, and what lacks them is evaluated.
    """
    if (data is None) == (zero_shot is None):
        raise UsageError("exactly one of --data and --zero-shot says what to compare on", fix="mwactl data list")
    kind = _kind(by)
    from mwactl.evaluate.floor import parse_floors
    from mwactl.registry import Registry
    from mwactl.workflow.compare import compare as compare_models
    from mwactl.workflow.contestants import RankOptions

    floors = parse_floors(fail_below or [])
    options = RankOptions(
        data=str(data or zero_shot), split=split, protocol=protocol, zero_shot=zero_shot is not None, stored=stored,
        on_error="skip" if on_error == "skip" else "stop",
        batch_size=batch_size, device=device, precision=precision, download=download,
    )  # fmt: skip
    document = compare_models(Registry.default(reporter=out), references, options, out, by=kind, floors=floors)
    contestants = document["contestants"]
    out.answer(
        document,
        human=lambda: _describe(document),
        identifier="\n".join(f"{each['metrics']['rsum']['difference']:+.1f}" for each in contestants),
    )
    _check_floors(contestants)
    if document["baseline"]["digest"] and contestants[0]["digest"]:
        out.hint(f"mwactl registry diff {document['baseline']['reference']} {contestants[0]['reference']}")


def _kind(by: str | None) -> By | None:
    kinds: dict[str | None, By | None] = {None: None, "length": "length", "tag": "tag"}
    if by not in kinds:
        raise UsageError(f"--by {by}: unknown", fix="--by length, or --by tag")
    return kinds[by]


def _check_floors(contestants: list[dict[str, Any]]) -> None:
    failed = [
        f"{each['reference']} {floor['metric']} {each['metrics'][floor['metric']]['difference']:+g} "
        f"(bound {floor['least']:+g})"
        for each in contestants
        for floor in each["floors"]
        if not floor["holds"]
    ]
    if failed:
        raise VerificationError(
            "a contestant is below the bound of --fail-below", why="; ".join(failed), fix="keep the baseline"
        )


def _describe(document: dict[str, Any]) -> None:
    data, bootstrap, baseline = document["data"], document["bootstrap"], document["baseline"]
    claim = "   zero-shot: checked" if document["zero_shot"] else ""
    out.text(
        f"baseline {baseline['reference']} on {data['name']} {data['split']}: {document['images']:,} pictures × "
        f"{document['texts']:,} captions, protocol {document['protocol']}{claim}"
    )
    several = len(document["contestants"]) > 1
    for each in document["contestants"]:
        out.text(f"{each['reference']} against {baseline['reference']}")
        _table(_rows(each["metrics"]), several)
        for name, test in each["mcnemar"].items():
            won, lost = test["only_contestant"], test["only_baseline"]
            out.text(f"McNemar {name}: {won:,} won, {lost:,} lost, p {_p(test['p'])}")
        for part in each["slices"]:
            out.text(f"{_name_of(part)}: {part['images']:,} pictures, {part['texts']:,} captions")
            _table(_rows(part["metrics"], ".R@1"), several)
    out.text(f"{100 * bootstrap['level']:g} % intervals and p of {bootstrap['resamples']:,} resamples of the pictures")
    out.text(f"can show: the difference that such a set finds in {100 * bootstrap['power']:g} % of cases")


def _rows(metrics: dict[str, Any], ending: str = "") -> list[dict[str, Any]]:
    return [{"metric": name, **values} for name, values in metrics.items() if name.endswith(ending)]


def _table(rows: list[dict[str, Any]], several: bool) -> None:
    number, change = "{:.1f}".format, "{:+.1f}".format
    corrected = [Column("p_holm", "p (Holm)", right=True, format=_p, keep=True)] if several else []
    out.table(
        rows,
        [
            Column("metric", "", keep=True),
            Column("baseline", "baseline", right=True, format=number),
            Column("contestant", "this", right=True, format=number),
            Column("difference", "change", right=True, format=change, keep=True),
            Column("interval", "interval", right=True, format=_interval, keep=True),
            Column("p", "p", right=True, format=_p, keep=True),
            *corrected,
            Column("smallest_difference", "can show", right=True, format=_shown),
        ],
    )


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:+.1f}, {ends[1]:+.1f}]"


def _shown(smallest: float | None) -> str:
    return "" if smallest is None else f"{smallest:.1f}"


def _p(value: float) -> str:
    return f"{value:.2g}"


def _name_of(part: dict[str, Any]) -> str:
    words = part.get("words", {}).get("text_to_image")
    return f"{part['name']} captions, {words[0]:g} to {words[1]:g} words" if words else str(part["name"])
