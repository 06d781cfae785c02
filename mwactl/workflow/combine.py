"""Combine: a new adapter from several by averaging, or from one by making it weaker or stronger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mwactl.adapter import AdaptedModel, check_active
from mwactl.adapter.average import average, scaled
from mwactl.errors import IncompatibleError
from mwactl.progress import Reporter, Silent
from mwactl.registry import Entry, Registry
from mwactl.registry.diff import differences
from mwactl.registry.reference import checked_name
from mwactl.workflow.evaluate import EvaluationOptions, evaluate_adapter, evaluate_model
from mwactl.workflow.inject import publish_once
from mwactl.workflow.load import adapter_tensors, load_untrained
from mwactl.workflow.splits import CheckedSplit


@dataclass(frozen=True)
class Mixture:
    """How adapters become one.

    Args:
        weights: One an adapter; 1 for a single one.
        strength: How much of the weighted sum the branches add; None: all of it.
    """

    weights: tuple[float, ...]
    strength: float | None = None


@dataclass(frozen=True)
class Combination:
    """A new adapter and what it was made from.

    Args:
        entry: The new adapter.
        parents: What it was made from.
        mixture: How.
        evaluations: A row a model: `what`, `reference` (None for one that is in no registry), and the metrics.
    """

    entry: Entry
    parents: tuple[Entry, ...]
    mixture: Mixture
    evaluations: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `mwactl merge REF… --weights …` and `--scale …`."""
        parents = zip(self.parents, self.mixture.weights, strict=True)
        return {
            "schema": 1,
            "adapter": self.entry.reference,
            "digest": self.entry.digest,
            "parents": [
                {"reference": entry.reference, "digest": entry.digest, "weight": weight} for entry, weight in parents
            ],
            "scale": self.mixture.strength,
            "backbone": {name: self.entry.manifest["base"][name] for name in ("backbone", "fingerprint")},
            "evaluations": list(self.evaluations),
        }


def combine_adapters(
    registry: Registry,
    entries: Sequence[Entry],
    mixture: Mixture,
    *,
    name: str,
    split: CheckedSplit | None = None,
    options: EvaluationOptions | None = None,
    backbone_name: str | None = None,
    weights: str | None = None,
    download: bool = False,
    reporter: Reporter | None = None,
) -> Combination:
    """Publish the adapter that is the weighted sum of others, its branches `mixture.strength` times as strong.

    Doing it again gives the version there is.

    Args:
        registry: Where the adapters are, and the result goes.
        entries: The adapters: of one backbone and one method.
        mixture: How they become one.
        name: Of the result.
        split: Where given, all of them and the result are evaluated on it; of a scaled one strength 0 and 1 as well.
            Evaluations of adapters in the registry are attached to them.
        options: How to evaluate.
        backbone_name: As of `load_adapted`; so are the next two.
        weights: The backbone's.
        download: Whether the network may be used for them.
        reporter: Who is told.

    Raises:
        IncompatibleError: An entry is no adapter, or one of another backbone or method.
        MwactlError: As `load_adapted`.
    """
    reporter = reporter or Silent()
    checked_name(name)  # before anything is read
    states = [adapter_tensors(registry, entry) for entry in entries]
    for entry in entries[1:]:
        _check_alike(entries[0], entry)
    _check_summable(entries)
    model = load_untrained(registry, entries[0], backbone_name=backbone_name, weights=weights, download=download)
    before = {tensor_name: tensor.clone() for tensor_name, tensor in model.adapter_state().items()}
    whole = average(states, mixture.weights)
    result = whole if mixture.strength is None else _at(model, before, whole, mixture.strength)
    model.load_adapter_state(result)
    check_active(model)
    facts = {"combined": {"weights": list(mixture.weights), "scale": mixture.strength}}
    identity, parents = entries[0].manifest["base"]["fingerprint"], [entry.digest for entry in entries]
    entry = publish_once(registry, model, identity, facts, name=name, parents=parents, verb="merge")
    if split is None:
        return Combination(entry, tuple(entries), mixture, ())
    place: dict[str, Any] = {"backbone_name": backbone_name, "weights": weights, "download": download}

    def published(what: str, member: Entry) -> dict[str, Any]:
        reporter.info(f"evaluating {what}")
        document = evaluate_adapter(registry, member, split, options or EvaluationOptions(), reporter, **place).document
        return _row(what, member.reference, document)

    def unpublished(what: str, strength: float) -> dict[str, Any]:
        reporter.info(f"evaluating {what}")
        model.load_adapter_state(_at(model, before, whole, strength))
        found = evaluate_model(model, split, options or EvaluationOptions(), reporter)
        return _row(what, None, found.as_dict())

    rows = [published(member.reference, member) for member in entries]
    if mixture.strength is not None:
        rows.insert(0, unpublished("strength 0: the bare backbone", 0.0))
        if len(entries) > 1:
            rows.append(unpublished("strength 1: the weighted sum", 1.0))
    rows.append(published(entry.reference, entry))
    return Combination(entry, tuple(entries), mixture, tuple(rows))


def _at(
    model: AdaptedModel, before: Mapping[str, Tensor], trained: Mapping[str, Tensor], strength: float
) -> dict[str, Tensor]:
    """`scaled`, whatever the model's tensors are at the moment."""
    model.load_adapter_state(before)
    return scaled(model, trained, strength)


def _check_summable(entries: Sequence[Entry]) -> None:
    """Refuse products of two trained matrices: the sum of their factors is not the factors of their sum.

    Raises:
        IncompatibleError: Several LoRA adapters.
    """
    if len(entries) > 1 and entries[0].manifest["method"]["name"] == "lora":
        raise IncompatibleError(
            "LoRA adapters cannot be averaged tensor by tensor",
            why="what they add is a product of two matrices, and the sum of factors is not the factors of a sum",
            fix=f"merge one of them: mwactl merge {entries[0].reference}",
        )


def _check_alike(first: Entry, other: Entry) -> None:
    """Refuse adapters of which a sum means nothing.

    Raises:
        IncompatibleError: They are of other methods, were trained on other backbones, or have another structure.
    """
    a, b = first.manifest["method"]["name"], other.manifest["method"]["name"]
    if a != b:
        raise IncompatibleError(
            f"{first.reference} and {other.reference} cannot be averaged",
            why=f"one is {a}, the other {b}",
            fix=f"mwactl registry diff {first.reference} {other.reference}",
        )
    for fact, title in (("base", "backbone"), ("method", "method")):
        ours, theirs = first.manifest[fact], other.manifest[fact]
        if fact == "base":
            ours, theirs = {"fingerprint": ours["fingerprint"]}, {"fingerprint": theirs["fingerprint"]}
        if different := differences({fact: ours}, {fact: theirs}):
            which = different[0]
            raise IncompatibleError(
                f"{first.reference} and {other.reference} cannot be averaged",
                why=f"they have another {title}: {which.key} is {which.a} and {which.b}",
                fix=f"mwactl registry diff {first.reference} {other.reference}",
            )


def _row(what: str, reference: str | None, document: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {key: document[key] for key in ("images", "texts", "image_to_text", "text_to_image", "rsum")}
    return {"what": what, "reference": reference, **metrics}
