"""Export: a published adapter or merged model as a folder of ONNX graphs, proven against torch before it appears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import torch

from mwactl.adapter import AdaptedModel, MergedModel, fold
from mwactl.backbone.contract import Modality
from mwactl.data.entry import CatalogueEntry
from mwactl.errors import MwactlError, UsageError
from mwactl.evaluate.encode import Embeddings, encode_split
from mwactl.export.bundle import Content, prove, write_bundle
from mwactl.export.candidates import Candidates, Material
from mwactl.export.gate import DEFAULT_INT8_GATE, Bound, need_neighbours, need_recall
from mwactl.export.golden import golden
from mwactl.export.graph import OPSET, OPSETS, TOWERS
from mwactl.export.parity import FEWEST_PICTURES, DType
from mwactl.export.storage import size_bytes
from mwactl.export.target import check_free, place_of, publish, workplace
from mwactl.export.towers import Graphs, examples_of, trace_towers
from mwactl.export.verdict import Verdict, judge
from mwactl.progress import Reporter, Silent
from mwactl.quickstart.assets import unpack
from mwactl.registry import Entry, Registry
from mwactl.registry.folder_entry import FolderEntry
from mwactl.workflow.facts import versions
from mwactl.workflow.load import load_model
from mwactl.workflow.place import portable_name
from mwactl.workflow.splits import CheckedSplit

_REFERENCE_BATCH = 32


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Args:
        dtype: What the graphs compute in.
        bounds: What the export may cost; none given for int8: the default gate.
        opset: The version of the ONNX operators.
        force: Replace a bundle that is there.
    """

    dtype: DType = "fp32"
    bounds: tuple[Bound, ...] = ()
    opset: int = OPSET
    force: bool = False


def export_onnx(
    registry: Registry,
    entry: Entry,
    target: Path,
    options: ExportOptions,
    *,
    split: CheckedSplit | None = None,
    limit: int | None = None,
    backbone_name: str | None = None,
    weights: str | None = None,
    download: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write an entry as a bundle; nothing is at the final name before every check has passed.

    Args:
        registry: Where the entry is; what was measured is attached to it there.
        entry: An adapter, which is folded first, or a merged model.
        target: The bundle's folder.
        options: How.
        split: What to measure on, with recall; None: the packaged drawings.
        limit: At most so many of its pictures.
        backbone_name: As of `load_model`; so are the next two.
        weights: The backbone's.
        download: Whether the network may be used for them.
        reporter: Who is told.

    Returns:
        The JSON document of `mwactl export`.

    Raises:
        UsageError: The target is there or can be nowhere, or the options do not go together.
        NotFoundError: The backbone or its weights are not here.
        IncompatibleError: The model cannot be expressed as ONNX, or its preprocessing as data.
        VerificationError: The graphs differ from torch, or cost more than the gate allows.
        ResourceError: No space, or another export to this folder is running.
    """
    reporter = reporter or Silent()
    bounds = options.bounds or (DEFAULT_INT8_GATE if options.dtype == "int8" else ())
    _check(options.opset, bounds, split, limit)
    place = place_of(target)
    check_free(place, force=options.force)
    model = load_model(registry, entry, backbone_name=backbone_name, weights=weights, download=download)
    _warn_of_untrained(entry, model, reporter)
    with workplace(place) as work:
        material = _material(split, limit, work)
        content, reference, graphs = _compute(model, entry, options, material, work, reporter)
        del model  # what follows needs the memory
        threads = torch.get_num_threads()
        candidates = Candidates(work, content, material, reference, threads=threads, reporter=reporter)
        verdict = judge(graphs, options.dtype, bounds, candidates, work / "int8", reporter)
        more = {
            # int8 finds other neighbours: what was embedded with it must not be searched with fp32, or the reverse.
            "identity": entry.digest + ("" if verdict.int8 is None else f"+{verdict.int8.mark}"),
            "measured_on": _measured_on(material),
            "gate": [bound.as_dict() for bound in bounds],
            "int8": None if verdict.int8 is None else verdict.int8.as_dict(),
        }
        made = work / "bundle"
        write_bundle(made, content, verdict.graphs, parity=verdict.parity, tolerance=verdict.tolerance, more=more)
        replayed = prove(made, threads)
        sizes = {f"{tower}.onnx": size_bytes(made / f"{tower}.onnx") for tower in TOWERS}
        publish(made, place, force=options.force)
    document = _document(content, verdict) | more | {"sizes": sizes, "replayed": replayed}
    try:
        registry.attach(entry, "export", document)
    except MwactlError as error:
        # The bundle is the answer; a registry that cannot be written to must not take it back.
        reporter.warn(f"the export could not be noted with {entry.reference}: {error}")
    return document | {"folder": str(target)}


def default_target(entry: Entry, dtype: DType) -> Path:
    """Where a bundle goes when nothing is said: `./coco-mwa@3-onnx`, `./coco-mwa@3-onnx-int8`."""
    return Path(f"{portable_reference(entry)}-onnx" + ("" if dtype == "fp32" else f"-{dtype}"))


def portable_reference(entry: Entry) -> str:
    """What an entry is called, without the place of its folder: `coco-mwa@3`, `my-adapter`."""
    if isinstance(entry, FolderEntry):
        return entry.name or entry.digest[:12]  # the root of a file system has no name
    return entry.reference


def _check(opset: int, bounds: Sequence[Bound], split: CheckedSplit | None, limit: int | None) -> None:
    if opset not in OPSETS:
        raise UsageError(
            f"--opset {opset}: not one that can be written",
            why=f"between {OPSETS[0]} and {OPSETS[-1]}",
            fix=f"--opset {OPSET}",
        )
    if split is None and need_recall(bounds):
        raise UsageError(
            "a gate on recall needs data to measure it on",
            why="the packaged drawings are no benchmark",
            fix="--data DATA, or --gate top10=90",
        )
    if split is None or not need_neighbours(bounds):
        return
    pictures = len(split.dataset.images)
    if min(pictures, limit or pictures) < FEWEST_PICTURES:
        raise UsageError(
            f"top-10 agreement needs {FEWEST_PICTURES} pictures or more",
            why=f"{min(pictures, limit or pictures)} are measured, of which many are always among the nearest ten",
            fix="leave out --data, to measure it on the packaged drawings; or bound the recall: --gate t2i.R@1=0.5"
            if pictures < FEWEST_PICTURES
            else f"--limit {FEWEST_PICTURES} or more",
        )


def _warn_of_untrained(entry: Entry, model: AdaptedModel | MergedModel, reporter: Reporter) -> None:
    adapter = model.adapter if isinstance(model, AdaptedModel) else None
    if adapter is not None and all(adapter.adds_nothing(modality) for modality in get_args(Modality)):
        reporter.warn(f"{entry.reference} is untrained and adds nothing: what is exported computes as its backbone")
    if entry.manifest.get("train") is None and (missing := sorted(model.backbone.untrained_parameter_names())):
        reporter.warn(f"the weights lack {', '.join(missing)}: these are random, and so is what the export finds")


def _material(split: CheckedSplit | None, limit: int | None, work: Path) -> Material:
    if split is None:
        annotations, images = unpack("noto", work)
        drawings = CatalogueEntry("packaged drawings", "karpathy", annotations, images)
        return Material(drawings.load("test"), recall=False)
    dataset = split.dataset
    surplus = range(limit, len(dataset.images)) if limit else ()
    return Material(dataset.without(surplus), recall=True)


def _measured_on(material: Material) -> dict[str, Any]:
    dataset = material.dataset
    return {
        "data": dataset.name,
        "split": dataset.split,
        "pictures": len(dataset.images),
        "captions": len(dataset.captions),
        "packaged": not material.recall,
    }


def _compute(
    model: AdaptedModel | MergedModel,
    entry: Entry,
    options: ExportOptions,
    material: Material,
    work: Path,
    reporter: Reporter,
) -> tuple[Content, Embeddings, Graphs]:
    """All that torch has to say: what it makes of the material, and the graphs. The model is used up."""
    backbone, portable = model.backbone, model.backbone.portable()
    facts = _facts(entry, model, portable.digest, options)
    reporter.info(f"measuring {entry.reference} with torch: {len(material.dataset.images):,} pictures")
    reference = encode_split(
        model, material.dataset, transform=backbone.image_transform(), tokenize=backbone.tokenize,
        batch_size=_REFERENCE_BATCH, reporter=reporter,
    )  # fmt: skip
    examples = examples_of(model, backbone, portable)
    if isinstance(model, AdaptedModel):
        reporter.info("folding the adapter into the backbone")
        model = fold(model)
    expected = golden(model, backbone, portable)
    traced = trace_towers(
        model, backbone, portable, examples,
        dtype=options.dtype, opset=options.opset, folder=work / "traced", reporter=reporter,
    )  # fmt: skip
    facts["model"]["kept"] = list(model.kept)
    facts["text_length"] = traced.text_length
    return Content(facts, portable, expected), reference, traced.graphs


def _facts(entry: Entry, model: AdaptedModel | MergedModel, preprocess: str, options: ExportOptions) -> dict[str, Any]:
    """What the manifest says before anything is traced or measured."""
    backbone, base = model.backbone, entry.manifest["base"]
    bias = backbone.logit_bias
    return {
        "schema": 1,
        "kind": "mwactl-bundle",
        "identity": entry.digest,
        "model": {
            "reference": portable_reference(entry),
            "digest": entry.digest,
            "kind": entry.manifest["kind"],
            "backbone": {
                "name": portable_name(base["backbone"]),
                "fingerprint": base["fingerprint"],
                "architecture": backbone.architecture(),
            },
            "method": entry.manifest["method"],
        },
        "preprocess": preprocess,
        "embedding_width": backbone.embedding_width,
        "logit_scale": float(backbone.logit_scale),
        "logit_bias": None if bias is None else float(bias),
        "opset": options.opset,
        "dtype": options.dtype,
        "licence": backbone.spec.licence,
        "versions": versions() | _onnx_versions(),
    }


def _onnx_versions() -> dict[str, str]:
    found = {}
    for name in ("onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of the two onnxruntimes there is one
            continue
    return found


def _document(content: Content, verdict: Verdict) -> dict[str, Any]:
    facts: Mapping[str, Any] = content.facts
    return {
        "schema": 1,
        "adapter": {name: facts["model"][name] for name in ("reference", "digest", "kind")},
        "kept": facts["model"]["kept"],
        **{name: facts[name] for name in ("dtype", "opset", "text_length", "versions")},
        "parity": verdict.parity.as_dict(),
        "tolerance": verdict.tolerance.as_dict(),
    }
