"""Tiny models of every family, and variants without processes: everything a comparison needs, in a second or two."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mwactl.bench.batch import Batch
from mwactl.bench.prepare import prepare_batch
from mwactl.bench.setup import Setup
from mwactl.bench.worker import Worker

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


@pytest.fixture
def setup_of(tiny_backbones: dict[str, str]) -> Callable[..., Setup]:
    """setup_of(family, **options): a quick comparison of a tiny model."""

    def make(family: str, **options: Any) -> Setup:
        quick = {"batch_size": 6, "rounds": 2, "steps": 1, "captions_per_image": 3, "device": "cpu"}
        return Setup(tiny_backbones[family], **{**quick, **options})

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
