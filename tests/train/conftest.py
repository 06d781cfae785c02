"""A toy dual encoder that trains in milliseconds, with dropout, so that the random state matters."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mwactl.config.recipe import TrainConfig
from mwactl.data.loader import PairBatch
from mwactl.errors import Interrupted
from mwactl.progress import Silent
from mwactl.train import TrainingRun
from mwactl.train.distributed import ALONE, Processes, joined
from mwactl.train.sampling import EpochPlan, Row

PICTURES = 12


class Temperature(nn.Module):
    """The part of a backbone that the loop looks at."""

    embedding_width = 4

    def __init__(self, value: float, train: bool) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(value), requires_grad=train)
        self.logit_bias = None


class Toy(nn.Module):
    """Two linear towers with dropout; has what the loop uses of an `AdaptedModel`."""

    def __init__(self, *, seed: int = 3, scale: float = 2.0, train_scale: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.image, self.text = nn.Linear(6, 4), nn.Linear(6, 4)
        self.dropout = nn.Dropout(0.5)
        self.backbone = Temperature(scale, train_scale)
        self.memory: int | None = None
        """The most pictures or captions that it can be shown at once."""
        self.encoded: list[int] = []

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.image(self.dropout(self._within_memory(pixels)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text(self._within_memory(self.dropout(tokens)))

    def _within_memory(self, rows: Tensor) -> Tensor:
        self.encoded.append(len(rows))
        if self.memory is not None and len(rows) > self.memory:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return rows

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def adapter_state(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.trainable().items()}

    def load_adapter_state(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trainable().items():
                parameter.copy_(state[name])


def run_together(folder: Path, count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What each of several processes makes of `work`, or the error that it raises; None where it died."""
    context = multiprocessing.get_context("fork")
    left = [folder / f"left-{rank}" for rank in range(count)]
    meet = folder / f"meet-{len(list(folder.iterdir()))}"

    def one(rank: int) -> None:
        of_a_machine = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.update({name: str(value) for name, value in of_a_machine.items()})
        torch.set_num_threads(1)
        try:
            with joined("cpu", init_method=f"file://{meet}") as processes:
                result = work(processes)
        except (Exception, Interrupted) as error:
            result = error
        left[rank].write_bytes(pickle.dumps(result))

    for file in left:
        file.unlink(missing_ok=True)
    started = [context.Process(target=one, args=(rank,)) for rank in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert not any(process.is_alive() for process in started)
    return [pickle.loads(file.read_bytes()) if file.is_file() else None for file in left]


@pytest.fixture
def together(tmp_path: Path) -> Callable[[int, Callable[[Processes], Any]], list[Any]]:
    """together(2, work): `work` in two processes, forked from this one."""
    folder = tmp_path / "together"
    folder.mkdir()
    return partial(run_together, folder)


def load(batches: Iterator[list[Row]]) -> Iterator[PairBatch]:
    """Every picture and caption is a fixed random vector."""
    generator = torch.Generator().manual_seed(0)
    pixels, tokens = torch.randn(2, PICTURES, 6, generator=generator)
    for rows in batches:
        images, captions = [row[1] for row in rows], [caption for row in rows for caption in row[2:]]
        owners = torch.tensor([number for number, row in enumerate(rows) for _ in row[2:]])
        yield PairBatch(
            pixels[images],
            tokens[captions],
            torch.tensor(images),
            torch.tensor(captions),
            None if len(captions) == len(images) else owners,
        )


@pytest.fixture
def toy() -> type[Toy]:
    return Toy


@pytest.fixture
def load_toy() -> Callable[[Iterator[list[Row]]], Iterator[PairBatch]]:
    return load


class Told(Silent):
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def training(tmp_path: Path) -> Callable[..., TrainingRun]:
    """A run of 12 pictures in batches of 4: 3 steps an epoch."""

    def make(
        model: Any = None,
        *,
        load_batches: Any = load,
        folder: str = "run",
        validate: Any = None,
        reporter: Any = None,
        processes: Any = ALONE,
        pairs: Any = None,
        **options: Any,
    ) -> TrainingRun:
        config = TrainConfig(**{"epochs": 2, "batch_size": 4, "lr": 0.05, "device": "cpu", **options})
        pairs = np.stack([np.arange(PICTURES)] * 2, axis=1) if pairs is None else pairs
        plan = EpochPlan(pairs, batch_size=config.batch_size, captions="random", seed=config.seed, captions_per_image=5)
        return TrainingRun(
            model or Toy(), plan, load_batches, config, folder=tmp_path / folder, identity="toy", validate=validate,
            resume_command="mwactl train toy.yaml --resume", reporter=reporter,
            processes=processes,
        )  # fmt: skip

    return make
