"""An entry about which everything is known, and a short way to evaluate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.registry import Entry, Registry

RECIPE = {
    "name": "coco-mwa",
    "backbone": {"name": "clip:local-dir:/home/someone/models/tiny", "weights": "/home/someone/weights.safetensors"},
    "train": {"lr": 0.001, "betas": [0.9, 0.98]},
}
FACTS: dict[str, Any] = {
    "method": {"name": "mwa", "config": {"mwa": {"layers": "all", "bias": True, "modalities": ["image", "text"]}}},
    "base": {
        "backbone": "clip:local-dir:/home/someone/models/tiny", "parameters": 1_000_000,
        "fingerprint": "sha256:" + "f" * 64,
        "weights": {"source": "file", "path": "/home/someone/weights.safetensors", "file_sha256": "w" * 64},
    },
    "tensors": {"count": 4, "parameters": 1000, "digest": "sha256:" + "e" * 64},
    "train": {
        "recipe": RECIPE, "recipe_digest": "a" * 64, "seed": 0, "steps": 60, "best_epoch": 2,
        "versions": {"mwactl": "0.1.0", "torch": "2.6"},
    },
    "data": [
        {"name": "coco", "split": "train", "images": 113_287, "captions": 566_747, "skipped": 3, "digest": "t" * 64},
        {"name": "coco", "split": "val", "images": 5000, "captions": 25_010, "skipped": 0, "digest": "v" * 64},
    ],
    "metrics": [{"dataset": "coco", "split": "val", "rsum": 470.0}],
}  # fmt: skip
CURVE = [{"epoch": epoch, "rsum": rsum} for epoch, rsum in enumerate((400.0, 470.0, 440.0), 1)]


@pytest.fixture
def registry(empty_home: Path) -> Registry:
    return Registry.default()


@pytest.fixture
def attach_evaluation(registry: Registry) -> Callable[..., None]:
    """attach_evaluation(entry, data, split, digest=…, **facts): a result with all the usual numbers."""

    def attach(entry: Entry, data: str, split: str, *, digest: str = "x" * 64, **facts: Any) -> None:
        recalls = {"R@1": 60.54, "R@5": 90.0, "R@10": 99.0, "median_rank": 1.0, "mean_rank": 2.5}
        document = {
            "data": {"name": data, "split": split, "digest": digest}, "images": 5000, "texts": 25_010,
            "text_to_image": recalls, "image_to_text": recalls, "rsum": 512.44, "zero_shot": False, "protocol": "full",
        }  # fmt: skip
        registry.attach(entry, "evaluation", document | facts)

    return attach


@pytest.fixture
def complete(registry: Registry, attach_evaluation: Callable[..., None]) -> Entry:
    """Trained, evaluated twice on COCO and zero-shot on Flickr30k, with its curve and its tags."""
    entry = registry.publish(
        "coco-mwa", kind="adapter", files={"adapter.safetensors": b"tensors"}, facts=FACTS, verb="train"
    )
    timing = {"seconds": 3600.0, "seconds_per_step": 0.5, "peak_memory_bytes": 8_100_000_000, "validation": CURVE}
    registry.attach(entry, "training", timing)
    attach_evaluation(entry, "coco", "test")
    attach_evaluation(entry, "coco", "test", protocol="coco-1k", rsum=530.0)
    attach_evaluation(entry, "flickr30k", "test", digest="k" * 64, zero_shot=True)
    registry.tag(entry, {"license": "Apache-2.0", "base_model": "some-org/tiny"})
    return entry
