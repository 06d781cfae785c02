"""Tiny models of every family, and variants without processes: everything a comparison needs, in a second or two."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from mwactl.bench.batch import Batch
from mwactl.bench.prepare import prepare_batch
from mwactl.bench.setup import Setup
from mwactl.bench.worker import Worker

BEIT3 = {
    "width": 32, "layers": 2, "heads": 4, "hidden": 48, "image_size": 48, "vocabulary": 100, "text_positions": 66,
}  # fmt: skip
VLMO = {
    "width": 32, "layers": 3, "heads": 4, "hidden": 48, "image_size": 64, "vocabulary": 60, "text_length": 24,
    "bias_text_length": 30, "first_joint_block": 2,
}  # fmt: skip

needs_torchscale = pytest.mark.skipif(find_spec("torchscale") is None, reason="torchscale 0.2.0 is not installed")


class HereAndNow:
    """A variant in this process."""

    def __init__(self, variant: str, setup: Setup, batch_file: Path) -> None:
        self.worker = Worker(variant, setup, batch_file)

    def call(self, command: str, *arguments: Any) -> Any:
        return getattr(self.worker, command)(*arguments)

    def close(self) -> None:
        pass


@pytest.fixture
def here_and_now() -> type[HereAndNow]:
    return HereAndNow


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> dict[str, str]:
    """A backbone's name a family."""
    torch.set_num_threads(1)  # matrices this small are slower on more
    folder = tmp_path_factory.mktemp("backbones")
    for family, sizes in {"beit3": BEIT3, "vlmo": VLMO}.items():
        (folder / family).mkdir()
        (folder / family / "config.json").write_text(json.dumps(sizes))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog"]
    (folder / "vlmo" / "vocab.txt").write_text("\n".join(words) + "\n")
    names = {family: f"{family}:local-dir:{folder / family}" for family in ("beit3", "vlmo")}
    return {**names, "clip": f"clip:local-dir:{tiny_clip}"}


@pytest.fixture
def setup_of(backbones: dict[str, str]) -> Callable[..., Setup]:
    """setup_of(family, **options): a quick comparison of a tiny model."""

    def make(family: str, **options: Any) -> Setup:
        quick = {"batch_size": 6, "rounds": 2, "steps": 1, "captions_per_image": 3, "device": "cpu"}
        return Setup(backbones[family], **{**quick, **options})

    return make


@pytest.fixture
def batch_of() -> Callable[[Setup], Batch]:
    """The synthetic batch of a comparison."""
    return lambda setup: prepare_batch(setup, (), None, "train")


@pytest.fixture
def worker_of(tmp_path: Path, batch_of: Callable[[Setup], Batch]) -> Callable[[str, Setup], Worker]:
    """worker_of(variant, setup): the variant, built, in this process."""

    def make(variant: str, setup: Setup) -> Worker:
        file = tmp_path / "batch.safetensors"
        batch_of(setup).save(file)
        worker = Worker(variant, setup, file)
        worker.build()
        return worker

    return make
