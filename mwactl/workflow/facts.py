"""The facts of an adapter's manifest, and back: what was trained, on which backbone, with which data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from platform import python_version
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

import mwactl
from mwactl.adapter import AdaptedModel
from mwactl.backbone.contract import Backbone
from mwactl.backbone.fingerprint import tensors_digest
from mwactl.config.presets import complete
from mwactl.config.recipe import MethodConfig
from mwactl.errors import IncompatibleError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry import Entry, Registry
from mwactl.workflow.place import portable_name
from mwactl.workflow.splits import CheckedSplit

ADAPTER, ADAPTER_FILE = "adapter", "adapter.safetensors"
MERGED, MERGED_FILE = "merged", "model.safetensors"
RECIPE_FILE = "recipe.yaml"
PICTURES_FILE = "training-pictures.sha256"


def adapter_facts(model: AdaptedModel, fingerprint: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The manifest facts that every adapter has: method, base and tensors."""
    # With the presets' values spelt out: an adapter stays what it is, whatever a preset stands for one day.
    method = replace(model.method, mwa=complete(model.method.mwa))
    config: dict[str, Any] = json.loads(canonical_json(asdict(method)))  # as it will be read back
    if model.method.name != "lora":
        del config["lora"]
    base = backbone_facts(model.backbone, fingerprint)
    return {
        "method": {"name": model.method.name, "config": config},
        "base": {"backbone": base.pop("name"), **base},
        "tensors": {
            "count": len(state),
            "parameters": sum(tensor.numel() for tensor in state.values()),
            "digest": tensors_digest(state),
        },
    }


def backbone_facts(backbone: Backbone, fingerprint: str) -> dict[str, Any]:
    """Which backbone with which weights, the same on every machine: no paths."""
    weights = backbone.weights.as_dict()
    del weights["path"]
    return {
        "name": portable_name(backbone.spec.name),
        "parameters": backbone.count_parameters(),
        "fingerprint": fingerprint,
        "weights": weights,
    }


def architecture_digest(backbone: Backbone) -> str:
    """The identity of all that decides what a backbone computes and is no tensor."""
    return sha256_bytes(canonical_json(backbone.architecture()))


def method_of(entry: Entry) -> MethodConfig:
    """The method of a published adapter.

    Raises:
        IncompatibleError: Its options are not known to this version.
    """
    try:
        return TypeAdapter(MethodConfig).validate_python(entry.manifest["method"]["config"])
    except (ValidationError, KeyError, TypeError) as error:
        raise IncompatibleError(
            f"{entry.reference} has method options that mwactl {mwactl.__version__} does not know",
            why=" ".join(str(error).split())[:200],
            fix="pip install --upgrade mwactl",
        ) from error


def was_trained(registry: Registry, entry: Entry) -> bool:
    """Whether an entry, or something that it was made from, was trained: here, elsewhere, or nobody knows where."""
    known = {"train", "imported", "missing"}
    return any(manifest.get(fact) for manifest in registry.lineage(entry) for fact in known)


def data_facts(split: CheckedSplit) -> dict[str, Any]:
    """What the lineage keeps of one split: its name, size and digest, and how many pictures were skipped."""
    dataset = split.dataset
    return {
        "name": dataset.name,
        "split": dataset.split,
        "images": len(dataset.images),
        "captions": len(dataset.captions),
        "skipped": split.skipped,
        "digest": dataset.digest([digest or "" for digest in split.digests]),
    }


def versions() -> dict[str, str]:
    """The versions that decide a run's numbers."""
    return {
        "mwactl": mwactl.__version__,
        "python": python_version(),
        "torch": str(torch.__version__),  # with the CUDA version, which the package's metadata lack
        **{name: version(name) for name in ("open_clip_torch", "numpy", "pillow")},
    }
