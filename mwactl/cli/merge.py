"""`mwactl merge`: an adapter becomes part of its backbone, or several adapters become one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.completion import complete_data, complete_reference
from mwactl.cli.options import Debug, Download, Json, Quiet
from mwactl.cli.output import Column, out, size
from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.registry import Entry, Registry
    from mwactl.workflow.combine import Combination
    from mwactl.workflow.merge import Merge
    from mwactl.workflow.splits import CheckedSplit

_NAME_LENGTH = 64


def merge(
    references: Annotated[
        list[str],
        typer.Argument(metavar="REF…", help="An adapter, or several.", autocompletion=complete_reference),
    ],
    weights: Annotated[
        str | None, typer.Option("--weights", help="Average several adapters: one weight each, such as 0.5,0.5.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Make an adapter with branches this many times as strong.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="The result's name (default: REF's with -merged, -average or -scaled)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Compare on this data set too; of an average or a scaled one: evaluate on it.",
            autocompletion=complete_data,
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Which split of it.")] = "test",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Of the evaluation.")] = 256,
    device: Annotated[str, typer.Option("--device", help="Of the evaluation: auto, cpu, cuda, cuda:N.")] = "auto",
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="The backbone's name now, where its folder has moved.")
    ] = None,
    backbone_weights: Annotated[
        str | None, typer.Option("--backbone-weights", help="Its weights file or tag, where that has moved.")
    ] = None,
    download: Download = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fold an adapter into its backbone: one model that computes the same, without branches wherever that is exact.

    Before it is published it is compared with backbone and adapter on 32 packaged drawings, and on --data.
    With --weights or --scale the result is an adapter again: a weighted sum of several, or one of another strength.
    """
    given = _weights(weights, references)
    if scale is not None and not math.isfinite(scale):
        raise UsageError(f"--scale {scale}: not a number that can scale anything", fix="--scale 0.7")
    from mwactl.registry import Registry
    from mwactl.workflow.splits import checked_split

    registry = Registry.default(reporter=out)
    entries = [registry.resolve(reference) for reference in references]
    checked = None if data is None else checked_split(data, split, on_error="stop", reporter=out)
    place: dict[str, Any] = {"backbone_name": backbone, "weights": backbone_weights, "download": download}
    if given is None and scale is None:
        _fold(registry, entries[0], name or _name(entries[0], "merged"), checked, place)
        return
    from mwactl.workflow.combine import Mixture, combine_adapters
    from mwactl.workflow.evaluate import EvaluationOptions

    mixture = Mixture(given or (1.0,), scale)
    if not math.isclose(sum(mixture.weights), 1.0):
        out.warn(f"the weights sum to {sum(mixture.weights):g}, not to 1: the branches change their strength as well")
    combination = combine_adapters(
        registry, entries, mixture, name=name or _name(entries[0], "average" if scale is None else "scaled"),
        split=checked, options=EvaluationOptions(batch_size=batch_size, device=device), reporter=out, **place,
    )  # fmt: skip
    reference = combination.entry.reference
    out.answer(combination.as_dict(), human=lambda: _describe_combination(combination), identifier=reference)
    out.hint(f"mwactl merge {reference}" if data else f"mwactl eval {reference} --data DATA   (mwactl data list)")


def _fold(registry: Registry, entry: Entry, name: str, checked: CheckedSplit | None, place: dict[str, Any]) -> None:
    from mwactl.workflow.merge import merge_adapter

    done = merge_adapter(registry, entry, name=name, split=checked, reporter=out, **place)
    out.answer(done.as_dict(), human=lambda: _describe_merge(done), identifier=done.entry.reference)
    out.hint(f"mwactl export {done.entry.reference} --onnx")


def _weights(text: str | None, references: list[str]) -> tuple[float, ...] | None:
    """The weights as numbers; None: there are none.

    Raises:
        UsageError: They are no numbers, or not one an adapter.
    """
    count = len(references)
    even = ",".join([f"{1 / count:.3g}"] * count)
    if text is None:
        if count > 1:
            raise UsageError(
                f"{count} adapters need --weights",
                why="what they become is their weighted sum",
                fix=f"mwactl merge {' '.join(references)} --weights {even}",
            )
        return None
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--weights {text}: not numbers between commas", fix=f"--weights {even}") from None
    if count == 1:
        raise UsageError(
            "--weights averages several adapters, this is one", fix=f"mwactl merge {references[0]} --scale {text}"
        )
    if len(weights) != count or not all(map(math.isfinite, weights)):
        raise UsageError(
            f"--weights {text}: one finite number for each adapter is needed",
            why=f"{len(weights)} for {count} adapters" if len(weights) != count else None,
            fix=f"--weights {even}",
        )
    return weights


def _name(entry: Entry, suffix: str) -> str:
    """The result's name; that of a folder's entry may be no name of the registry."""
    return f"{entry.name[: _NAME_LENGTH - 1 - len(suffix)]}-{suffix}"


def _describe_merge(done: Merge) -> None:
    document, equality = done.as_dict(), done.equality
    base = document["backbone"]
    out.text(
        f"{done.adapter.reference} in {base['backbone']}   {document['parameters']:,} parameters, "
        f"{100 * document['added_share']:.2f} % more than the backbone"
    )
    for sentence in done.model.kept:
        out.text(f"kept  {sentence}")
    material = equality.as_dict()
    of_data = material["data"]
    named = f"packaged drawings and {of_data['name']} {of_data['split']}" if of_data else "packaged drawings"
    out.text(
        f"the same embeddings to {equality.max_abs:.1e} on {material['pictures']} pictures and "
        f"{material['captions']} captions ({named})"
    )
    if equality.moved is not None:
        out.text(f"without the adapter's modules they would differ by {equality.moved:.1e}")
    out.text(f"published {done.entry.reference}   {size(done.entry.size_bytes)}   sha256:{done.entry.digest[:12]}…")


def _describe_combination(combination: Combination) -> None:
    mixture = combination.mixture
    terms = zip(mixture.weights, combination.parents, strict=True)
    out.text(" + ".join(f"{weight:g} × {entry.reference}" for weight, entry in terms))
    if mixture.strength is not None:
        out.text(f"strength {mixture.strength:g}")
    if combination.evaluations:
        out.table([_row(each) for each in combination.evaluations], _COLUMNS)
    entry = combination.entry
    out.text(f"published {entry.reference}   sha256:{entry.digest[:12]}…")


def _row(evaluation: dict[str, Any]) -> dict[str, Any]:
    recalls = {
        f"{short} R@{k}": evaluation[direction][f"R@{k}"]
        for short, direction in (("t2i", "text_to_image"), ("i2t", "image_to_text"))
        for k in (1, 5, 10)
    }
    return {"what": evaluation["what"], "rsum": evaluation["rsum"], **recalls}


_COLUMNS = [
    Column("what", "", keep=True),
    Column("rsum", "RSUM", right=True, format="{:.1f}".format, keep=True),
    *(
        Column(f"{short} R@{k}", f"{short} R@{k}", right=True, format="{:.1f}".format)
        for short in ("t2i", "i2t")
        for k in (1, 5, 10)
    ),
]
