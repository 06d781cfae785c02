"""Merge: an adapter folded into its backbone, shown to compute the same, and published as one model.

Shape notation: n pictures or captions, e the shared space.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mwactl.adapter import AdaptedModel, MergedModel, fold
from mwactl.backbone.contract import unit_rows
from mwactl.backbone.fingerprint import tensors_digest
from mwactl.backbone.safetensors_bytes import SafetensorsBytes
from mwactl.data.picture import decode, open_image
from mwactl.data.picture_file import PictureFile
from mwactl.errors import VerificationError
from mwactl.progress import Reporter, Silent
from mwactl.quickstart.samples import samples
from mwactl.registry import Entry, Registry
from mwactl.registry.reference import checked_name
from mwactl.workflow.facts import MERGED, MERGED_FILE, architecture_digest
from mwactl.workflow.load import load_adapted
from mwactl.workflow.place import remember
from mwactl.workflow.splits import CheckedSplit

TOLERANCE = 1e-5
"""The largest difference that rounding may make to a component of a unit embedding in fp32."""

_DRAWINGS = 32
_PICTURES_OF_DATA = 64
_BATCH = 16


@dataclass(frozen=True)
class Material:
    """What two models are compared on.

    Args:
        pictures: Decoded when they are asked for.
        captions: As many or more.
        data: Name and split of the user's own data; None: the packaged drawings alone.
    """

    pictures: Sequence[bytes | PictureFile]
    captions: Sequence[str]
    data: dict[str, str] | None


@dataclass(frozen=True)
class Equality:
    """What the comparison of adapted and merged model found; differences are of components of unit embeddings.

    Args:
        material: What was compared.
        max_abs: The largest difference of the two.
        moved: The largest difference that the adapter's modules make; None where it has none.
    """

    material: Material
    max_abs: float
    moved: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "pictures": len(self.material.pictures),
            "captions": len(self.material.captions),
            "data": self.material.data,
            "max_abs": self.max_abs,
            "tolerance": TOLERANCE,
            "moved_by_adapter": self.moved,
        }


@dataclass(frozen=True)
class Merge:
    """A merged model and what it was made from."""

    entry: Entry
    adapter: Entry
    model: MergedModel
    equality: Equality

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `mwactl merge REF`."""
        base = self.entry.manifest["base"]
        parameters = self.model.count_parameters()
        return {
            "schema": 1,
            "merged": self.entry.reference,
            "digest": self.entry.digest,
            "size_bytes": self.entry.size_bytes,
            "adapter": {"reference": self.adapter.reference, "digest": self.adapter.digest},
            "backbone": {name: base[name] for name in ("backbone", "fingerprint", "parameters")},
            "parameters": parameters,
            "added_share": parameters / base["parameters"] - 1,
            "kept": list(self.model.kept),
            "equality": self.equality.as_dict(),
        }


def merge_adapter(
    registry: Registry,
    entry: Entry,
    *,
    name: str,
    split: CheckedSplit | None = None,
    backbone_name: str | None = None,
    weights: str | None = None,
    download: bool = False,
    reporter: Reporter | None = None,
) -> Merge:
    """Fold an adapter into its backbone and publish the one model, if it computes what the two compute.

    Publishing the same merge again gives the version there is.

    Args:
        registry: Where the adapter is, and the result goes.
        entry: The adapter.
        name: Of the result.
        split: Data to compare on besides the packaged drawings: at most 64 of its pictures.
        backbone_name: As of `load_adapted`; so are the next two.
        weights: The backbone's.
        download: Whether the network may be used for them.
        reporter: Who is told.

    Raises:
        UsageError: The name is none for the registry.
        IncompatibleError: The entry is no adapter, or does not fit its backbone.
        VerificationError: The merged model computes something else; nothing was published.
        ResourceError: No space.
    """
    reporter, name = reporter or Silent(), checked_name(name)
    adapted = load_adapted(registry, entry, backbone_name=backbone_name, weights=weights, download=download)
    architecture = architecture_digest(adapted.backbone)
    material = _material(split)
    reporter.info(f"comparing on {len(material.pictures)} pictures and {len(material.captions)} captions")
    expected = _rows(adapted, material)
    moved = _moved(adapted, material, expected)
    model = fold(adapted)
    equality = Equality(material, _largest_difference(_rows(model, material), expected), moved)
    _check(equality, entry, reporter)
    facts = {
        "method": entry.manifest["method"],
        "base": entry.manifest["base"],
        "tensors": _tensor_facts(model),
        "train": None,
        "data": [],
        "metrics": [],
        "merged": {"architecture": architecture, "kept": list(model.kept), "equality": equality.as_dict()},
    }
    merged = _published(registry, name, entry, facts) or _publish(registry, name, entry, model, facts)
    remember(registry, merged, model.backbone)
    return Merge(merged, entry, model, equality)


def _material(split: CheckedSplit | None) -> Material:
    """The packaged drawings, and pictures from all over the user's own data with all of their captions."""
    drawings = samples(_DRAWINGS)
    pictures: list[bytes | PictureFile] = [drawing.picture for drawing in drawings]
    captions = [drawing.caption for drawing in drawings]
    if split is None:
        return Material(pictures, captions, None)
    dataset = split.dataset
    step = -(-len(dataset.images) // _PICTURES_OF_DATA)
    chosen = range(0, len(dataset.images), step)
    own = dataset.captions_of()
    pictures += [dataset.images[index] for index in chosen]
    captions += [dataset.captions[caption] for index in chosen for caption in own[index]]
    return Material(pictures, captions, {"name": dataset.name, "split": dataset.split})


@torch.inference_mode()
def _rows(model: AdaptedModel | MergedModel, material: Material) -> tuple[Tensor, Tensor]:
    """Unit embeddings of the pictures, [n, e], and of the captions, [n, e], in fp32 on the CPU."""
    transform = model.backbone.image_transform()
    images = [
        unit_rows(model.encode_image(torch.stack([transform(_opened(picture)) for picture in batch])))
        for batch in _batches(material.pictures)
    ]
    texts = [unit_rows(model.encode_text(model.backbone.tokenize(batch))) for batch in _batches(material.captions)]
    return torch.cat(images), torch.cat(texts)


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]


def _opened(picture: bytes | PictureFile) -> Image.Image:
    if isinstance(picture, bytes):
        return decode(io.BytesIO(picture), Path("a packaged drawing"))
    return open_image(picture)


def _moved(adapted: AdaptedModel, material: Material, expected: tuple[Tensor, Tensor]) -> float | None:
    """How far the adapter's modules move the embeddings: what a merge that lost them all would be off by."""
    if adapted.adapter is None:
        return None
    adapted.adapter.detach_from(adapted.backbone)
    try:
        return _largest_difference(_rows(adapted, material), expected)
    finally:
        adapted.adapter.attach_to(adapted.backbone)


def _largest_difference(rows: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> float:
    return max((row - other).abs().max().item() for row, other in zip(rows, others, strict=True))


def _check(equality: Equality, entry: Entry, reporter: Reporter) -> None:
    """Refuse a merged model that computes something else.

    Raises:
        VerificationError: It does, or its embeddings are not finite.
    """
    if not equality.max_abs <= TOLERANCE:  # NaN as well
        raise VerificationError(
            f"the merged model does not compute what {entry.reference} computes; nothing was published",
            why=f"a component of a unit embedding differs by {equality.max_abs:.1e}, rounding makes at most "
            f"{TOLERANCE:.0e}",
            fix=f"use the adapter as it is: mwactl eval {entry.reference}",
        )
    if equality.moved is not None and equality.moved <= TOLERANCE:
        reporter.warn(
            f"{entry.reference} moves the embeddings by at most {equality.moved:.1e}: the merged model is the backbone"
        )


def _tensor_facts(model: MergedModel) -> dict[str, Any]:
    state = model.complete_state()
    return {"count": len(state), "parameters": model.count_parameters(), "digest": tensors_digest(state)}


def _published(registry: Registry, name: str, adapter: Entry, facts: dict[str, Any]) -> Entry | None:
    """The version of this name that is the same model made from the same adapter, whatever it was compared on."""
    for entry in registry.entries(name):
        if isinstance(entry, Entry) and entry.manifest["kind"] == MERGED:
            same = {fact: facts[fact] for fact in ("method", "base", "tensors")}
            if entry.manifest["parents"] == [adapter.digest] and same.items() <= entry.manifest.items():
                return entry
    return None


def _publish(registry: Registry, name: str, adapter: Entry, model: MergedModel, facts: dict[str, Any]) -> Entry:
    content = SafetensorsBytes(model.complete_state())
    return registry.publish(
        name, kind=MERGED, files={MERGED_FILE: content}, facts=facts, parents=[adapter.digest], verb="merge"
    )
