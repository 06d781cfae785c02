"""Evaluate: an adapter or a bare backbone on a split, as an honest document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from mwactl.adapter import AdaptedModel, MergedModel
from mwactl.backbone.contract import Backbone
from mwactl.backbone.fingerprint import fingerprint
from mwactl.backbone.precision import choose_device, choose_precision
from mwactl.errors import MwactlError, ResourceError, VerificationError
from mwactl.evaluate.bootstrap import metric_intervals
from mwactl.evaluate.encode import encode_split
from mwactl.evaluate.protocols import RetrievalResult, check_protocol, evaluate_embeddings
from mwactl.evaluate.queries import QueryRanks
from mwactl.progress import Reporter
from mwactl.registry import Entry, Registry
from mwactl.workflow import pictures
from mwactl.workflow.facts import PICTURES_FILE, backbone_facts, data_facts, versions, was_trained
from mwactl.workflow.load import load_model
from mwactl.workflow.picture_source import CacheMode, PictureSource, evaluation_source
from mwactl.workflow.place import remember
from mwactl.workflow.splits import CheckedSplit
from mwactl.workflow.stored_ranks import keep_ranks


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate.

    Args:
        protocol: `full` or `coco-1k`.
        batch_size: Pictures or captions a step.
        device: `auto`, `cpu`, `cuda`.
        precision: Of the towers; ranks are always fp32.
        workers: Loader processes; None: one a core.
        cache: Whether pictures come from the picture cache; the pixels are the same.
    """

    protocol: str = "full"
    batch_size: int = 256
    device: str = "auto"
    precision: str = "fp32"
    workers: int | None = None
    cache: CacheMode = "auto"


@dataclass(frozen=True)
class Evaluated:
    """What one evaluation found.

    Args:
        document: The numbers with their intervals, and what they were computed on and with.
        ranks: The rank of every query.
    """

    document: dict[str, Any]
    ranks: QueryRanks


def evaluate_model(
    model: AdaptedModel | MergedModel | Backbone,
    split: CheckedSplit,
    options: EvaluationOptions,
    reporter: Reporter,
    source: PictureSource | None = None,
) -> RetrievalResult:
    """Encode a split once and rank it both ways; its pictures come from `source`, else as `options.cache` says.

    Raises:
        UsageError: The protocol does not fit the split.
        ResourceError: The GPU's memory is not enough.
    """
    check_protocol(options.protocol, len(split.dataset.images))
    backbone = model if isinstance(model, Backbone) else model.backbone
    source = source or evaluation_source(backbone, split, options.cache, reporter, workers=options.workers)
    device = choose_device(options.device)
    model.to(device).eval()
    try:
        embeddings = encode_split(
            model,
            split.dataset,
            transform=source.transform,
            pictures=source.pictures,
            tokenize=backbone.tokenize,
            batch_size=options.batch_size,
            device=device,
            precision=choose_precision(options.precision, device),
            workers=options.workers,
            reporter=reporter,
        )
    except torch.cuda.OutOfMemoryError as error:
        raise ResourceError(
            f"the GPU's memory is not enough to encode {options.batch_size} at a time",
            why=str(error).splitlines()[0][:200],
            fix=f"mwactl eval … --batch-size {max(1, options.batch_size // 2)}, or train.eval_batch_size in a recipe",
        ) from error
    return evaluate_embeddings(embeddings.images, embeddings.texts, split.dataset.pairs, options.protocol)


def evaluate_backbone(
    backbone: Backbone, split: CheckedSplit, options: EvaluationOptions, reporter: Reporter
) -> Evaluated:
    """Evaluate a backbone without an adapter; nothing is kept."""
    identity = fingerprint(backbone)
    if missing := sorted(backbone.untrained_parameter_names()):
        reporter.warn(f"the weights lack {', '.join(missing)}: these are random, so the numbers mean nothing yet")
    result = evaluate_model(backbone, split, options, reporter)
    document = _document(result, split, options, adapter=None, backbone=backbone, identity=identity, zero_shot=None)
    return Evaluated(document, result.ranks)


def evaluate_adapter(
    registry: Registry,
    entry: Entry,
    split: CheckedSplit,
    options: EvaluationOptions,
    reporter: Reporter,
    *,
    zero_shot: bool = False,
    backbone_name: str | None = None,
    weights: str | None = None,
    download: bool = False,
) -> Evaluated:
    """Evaluate an adapter; the document and the ranks are attached to its version in the registry.

    So is the place of its backbone, where `backbone_name` or `weights` says a new one.

    Raises:
        VerificationError: `zero_shot` is asked for, but the adapter was trained on this data.
    """
    if zero_shot:
        check_unseen(registry, entry, split)
    model = load_model(registry, entry, backbone_name=backbone_name, weights=weights, download=download)
    if (missing := sorted(model.backbone.untrained_parameter_names())) and not was_trained(registry, entry):
        reporter.warn(
            f"{entry.reference} is untrained, and the weights lack {', '.join(missing)}: the numbers mean nothing yet"
        )
    result = evaluate_model(model, split, options, reporter)
    identity = entry.manifest["base"]["fingerprint"]
    document = _document(
        result, split, options, adapter=entry, backbone=model.backbone, identity=identity, zero_shot=zero_shot
    )
    document["backbone"]["parameters"] = entry.manifest["base"]["parameters"]  # a merged model's are not the backbone's
    try:
        registry.attach(entry, "evaluation", document)
        keep_ranks(registry, entry, document, result.ranks)
        if backbone_name or weights:
            remember(registry, entry, model.backbone)
    except MwactlError as error:
        # The numbers are the answer; a registry that cannot be written to must not swallow them.
        reporter.warn(f"the result could not be kept with {entry.reference}: {error}")
    return Evaluated(document, result.ranks)


def check_unseen(registry: Registry, entry: Entry, split: CheckedSplit) -> None:
    """Refuse a zero-shot claim that the lineage contradicts: by the data set's name, and by the pictures' bytes.

    Raises:
        VerificationError: The adapter or an ancestor was trained on this data set or on pictures of this split.
    """
    dataset = split.dataset
    for manifest in registry.lineage(entry):
        if (unknown := _unknown_training(manifest)) is not None:
            raise VerificationError(
                f"zero-shot on {dataset.name} cannot be checked for {entry.reference}",
                why=unknown,
                fix=f"mwactl eval {entry.reference} --data {dataset.name}   (no zero-shot claim)",
            )
        reason = _seen_in(registry, entry, manifest, split)
        if reason:
            raise VerificationError(
                f"{entry.reference} is not zero-shot on {dataset.name}",
                why=reason,
                fix=f"mwactl eval {entry.reference} --data {dataset.name}",
            )


def _unknown_training(manifest: dict[str, Any]) -> str | None:
    """Why nobody can say what one manifest of the lineage was trained on, or None."""
    if "missing" in manifest:
        return f"its ancestor {manifest['missing'][:12]} is not in this registry"
    if "imported" in manifest:
        return f"it was imported from {manifest['imported']['file']}, and what that was trained on is not known"
    return None


def _seen_in(registry: Registry, entry: Entry, manifest: dict[str, Any], split: CheckedSplit) -> str | None:
    """Why one manifest of the lineage contradicts zero-shot, or None."""
    names = {used["name"] for used in manifest.get("data", [])}
    if split.dataset.name in names:
        return f"it was trained on {split.dataset.name}"
    listed = next((file for file in manifest.get("files", []) if file["path"] == PICTURES_FILE), None)
    if listed is None:
        return None
    data = registry.read(replace(entry, digest=manifest["digest"], manifest=manifest), PICTURES_FILE)
    count = pictures.seen(data, split.digests, where=entry.reference)
    if count:
        return (
            f"{count} of the {len(split.digests)} pictures of its {split.dataset.split} split are in the training data"
        )
    return None


def _document(
    result: RetrievalResult,
    split: CheckedSplit,
    options: EvaluationOptions,
    *,
    adapter: Entry | None,
    backbone: Backbone,
    identity: str,
    zero_shot: bool | None,
) -> dict[str, Any]:
    return {
        "schema": 1,
        **result.as_dict(),
        "intervals": metric_intervals(result.ranks),
        "adapter": None if adapter is None else {"reference": adapter.reference, "digest": adapter.digest},
        "backbone": backbone_facts(backbone, identity),
        "data": data_facts(split),
        "zero_shot": zero_shot,
        "precision": choose_precision(options.precision, choose_device(options.device)),
        "versions": versions(),
    }
