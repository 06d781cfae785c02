"""Pictures and captions as batches of tensors.

What a row looks like depends on the seed, the epoch, the picture and the caption alone, never on which worker made it
or on what came before: so a run can go on from any step, with any number of workers.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mwactl.data.captioned import CaptionedImages
from mwactl.data.picture import open_image
from mwactl.data.workers import worker_count

Transform = Callable[[Image.Image], Tensor]
Tokenizer = Callable[[Sequence[str]], Tensor]
Row = tuple[int, int, int]


@dataclass(frozen=True)
class PairBatch:
    """Pairs to train on.

    Args:
        pixels: [b, 3, h, w].
        tokens: [b, s].
        picture_ids: [b]; equal where the pictures have the same bytes.
        caption_ids: [b]; equal where the captions are the same words.
    """

    pixels: Tensor
    tokens: Tensor
    picture_ids: Tensor
    caption_ids: Tensor


def pair_batches(
    dataset: CaptionedImages,
    picture_digests: Sequence[str | None],
    batches: Iterator[list[Row]],
    *,
    transform: Transform,
    flip: bool,
    tokenize: Tokenizer,
    seed: int,
    workers: int | None = None,
    pin: bool = False,
) -> Iterator[PairBatch]:
    """Load the batches of a training run.

    Args:
        dataset: One split.
        picture_digests: Of each picture's bytes: equal digests are the same picture.
        batches: (epoch, image index, caption index) rows, a list a batch.
        transform: A picture -> [3, h, w]; may draw from the global generators, which are seeded for each row.
        flip: Mirror half of the pictures first.
        tokenize: Captions -> [b, s].
        seed: Of the transforms.
        workers: Loader processes; None: one a core, at most 8; 0: in this process.
        pin: Page-locked memory, for a GPU.
    """
    rows = _TrainingRows(dataset, picture_digests, transform, flip=flip, tokenize=tokenize, seed=seed)
    # Its own generator: the loader would otherwise draw from the one that dropout uses.
    generator = torch.Generator().manual_seed(seed)
    return iter(
        DataLoader(
            rows,
            batch_sampler=_GivenBatches(batches),
            num_workers=worker_count(workers),
            collate_fn=rows.collate,
            pin_memory=pin,
            generator=generator,
            worker_init_fn=_prepare_worker,
        )
    )


def picture_batches(
    dataset: CaptionedImages, *, transform: Transform, batch_size: int, workers: int | None = None, pin: bool = False
) -> Iterator[Tensor]:
    """Every picture of a split once, in order, as [b, 3, h, w]."""
    return iter(
        DataLoader(
            _Pictures(dataset.images, transform),
            batch_size=batch_size,
            num_workers=worker_count(workers),
            pin_memory=pin,
            generator=torch.Generator(),
            worker_init_fn=_prepare_worker,
        )
    )


class _TrainingRows(Dataset[tuple[Tensor, int, int]]):
    def __init__(
        self,
        dataset: CaptionedImages,
        picture_digests: Sequence[str | None],
        transform: Transform,
        *,
        flip: bool,
        tokenize: Tokenizer,
        seed: int,
    ) -> None:
        self._images = dataset.images
        self._captions = dataset.captions
        self._picture_ids = _groups(
            [digest or str(path) for digest, path in zip(picture_digests, dataset.images, strict=True)]
        )
        self._caption_ids = _groups([" ".join(caption.casefold().split()) for caption in dataset.captions])
        self._transform = transform
        self._flip = flip
        self._tokenize = tokenize
        self._seed = seed

    def __getitem__(self, row: Row) -> tuple[Tensor, int, int]:
        epoch, image, caption = row
        picture = open_image(self._images[image])
        with _seeded(self._seed, epoch, image, caption):
            if self._flip and random.random() < 0.5:
                picture = ImageOps.mirror(picture)
            return self._transform(picture), image, caption

    def collate(self, rows: list[tuple[Tensor, int, int]]) -> PairBatch:
        """Rows -> one batch."""
        captions = [caption for _, _, caption in rows]
        return PairBatch(
            pixels=torch.stack([pixels for pixels, _, _ in rows]),
            tokens=self._tokenize([self._captions[caption] for caption in captions]),
            picture_ids=self._picture_ids[[image for _, image, _ in rows]],
            caption_ids=self._caption_ids[captions],
        )


class _Pictures(Dataset[Tensor]):
    def __init__(self, images: Sequence[Path], transform: Transform) -> None:
        self._images = images
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._transform(open_image(self._images[index]))


class _GivenBatches:
    """A batch sampler that hands on batches made elsewhere."""

    def __init__(self, batches: Iterator[list[Row]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Row]]:
        return self._batches


class _seeded:  # noqa: N801 - used like a function
    """Seed the global generators from some numbers; put their states back afterwards."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers

    def __enter__(self) -> None:
        self._torch, self._python = torch.get_rng_state(), random.getstate()
        seed = int(np.random.SeedSequence(self._numbers).generate_state(1, np.uint64)[0]) >> 1
        torch.manual_seed(seed)
        random.seed(seed)

    def __exit__(self, *_: object) -> Literal[False]:
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        return False


def _groups(keys: Sequence[str]) -> Tensor:
    """The same number for equal keys, [k]."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])


def _prepare_worker(_: int) -> None:
    """Threads inside a worker would only fight over the cores.

    Ctrl-C, and a scheduler's SIGTERM, reach the workers too; but the process that made them finishes its step first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
