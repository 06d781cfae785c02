"""Pictures and captions as batches of tensors.

What a row looks like depends on the seed, the epoch, the picture and the caption alone, never on which worker made it
or on what came before: so a run can go on from any step, with any number of workers.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from mwactl.data.captioned import CaptionedImages
from mwactl.data.picture import open_image
from mwactl.data.workers import worker_count
from mwactl.errors import MwactlError

Transform = Callable[[Image.Image], Tensor]
Tokenizer = Callable[[Sequence[str]], Tensor]
Pictures = Callable[[int], Image.Image]
"""A picture of a split, by its index."""
Row = tuple[int, ...]
"""(epoch, image index, caption indices …): one picture, and those of its captions that are shown with it."""


@dataclass(frozen=True)
class PairBatch:
    """Pairs to train on.

    Args:
        pixels: [p, 3, h, w].
        tokens: [c, s].
        picture_ids: [p]; equal where the pictures have the same bytes.
        caption_ids: [c]; equal where the captions are the same words.
        owners: [c], the row of `pixels` that a caption belongs to; None: the row of the same number (p = c).
    """

    pixels: Tensor
    tokens: Tensor
    picture_ids: Tensor
    caption_ids: Tensor
    owners: Tensor | None = None

    def pin_memory(self) -> PairBatch:
        """The same in page-locked memory; the loader asks for it by this name, and pins nothing without it."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return PairBatch(**{name: tensor.pin_memory() for name, tensor in found.items() if tensor is not None})


def pair_batches(
    dataset: CaptionedImages,
    picture_digests: Sequence[str | None],
    batches: Iterator[list[Row]],
    *,
    transform: Transform,
    pictures: Pictures | None = None,
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
        batches: (epoch, image index, caption indices …) rows, a list a batch.
        transform: A picture -> [3, h, w]; may draw from the global generators, which are seeded for each row.
        pictures: Where the pictures come from; None: their files.
        flip: Mirror half of the pictures.
        tokenize: Captions -> [b, s].
        seed: Of the transforms.
        workers: Loader processes; None: one a core, at most 8; 0: in this process.
        pin: Page-locked memory, for a GPU.
    """
    rows = _TrainingRows(
        dataset, picture_digests, transform, pictures=pictures, flip=flip, tokenize=tokenize, seed=seed
    )
    # Its own generator: the loader would otherwise draw from the one that dropout uses.
    generator = torch.Generator().manual_seed(seed)
    return _batches_of(
        DataLoader(
            rows,
            batch_sampler=_GivenBatches(batches),
            num_workers=worker_count(workers),
            collate_fn=partial(_unless_failed, rows.collate),
            pin_memory=pin,
            generator=generator,
            worker_init_fn=_prepare_worker,
        )
    )


def picture_batches(
    dataset: CaptionedImages,
    *,
    transform: Transform,
    pictures: Pictures | None = None,
    batch_size: int,
    workers: int | None = None,
    pin: bool = False,
) -> Iterator[Tensor]:
    """Every picture of a split once, in order, as [b, 3, h, w]; from their files, or as `pictures` gives them."""
    return _batches_of(
        DataLoader(
            _Pictures(dataset, transform, pictures),
            batch_size=batch_size,
            num_workers=worker_count(workers),
            collate_fn=partial(_unless_failed, default_collate),
            pin_memory=pin,
            generator=torch.Generator(),
            worker_init_fn=_prepare_worker,
        )
    )


class _TrainingRows(Dataset[tuple[Tensor, Row]]):
    def __init__(
        self,
        dataset: CaptionedImages,
        picture_digests: Sequence[str | None],
        transform: Transform,
        *,
        pictures: Pictures | None,
        flip: bool,
        tokenize: Tokenizer,
        seed: int,
    ) -> None:
        self._pictures = pictures or _Files(dataset)
        self._captions = dataset.captions
        self._picture_ids = _groups(
            [digest or str(path) for digest, path in zip(picture_digests, dataset.images, strict=True)]
        )
        self._caption_ids = _groups([" ".join(caption.casefold().split()) for caption in dataset.captions])
        self._transform = transform
        self._flip = flip
        self._tokenize = tokenize
        self._seed = seed

    def __getitem__(self, row: Row) -> tuple[Tensor, Row]:
        picture = self._pictures(row[1])
        with _seeded(self._seed, *row):
            mirrored = self._flip and random.random() < 0.5
            pixels = self._transform(picture)  # [3, h, w]
        # The pixels, not the picture: resizing is not symmetric to the last bit, and the cache keeps what is resized.
        return pixels.flip(-1) if mirrored else pixels, row

    def __getitems__(self, rows: list[Row]) -> list[tuple[Tensor, Row]] | MwactlError:
        """A batch, or the error that one of its rows raised."""
        items: list[tuple[Tensor, Row]] | MwactlError = _caught(self, rows)
        return items

    def collate(self, rows: list[tuple[Tensor, Row]]) -> PairBatch:
        """Rows -> one batch."""
        captions = [caption for _, (_, _, *shown) in rows for caption in shown]
        owners = [number for number, (_, (_, _, *shown)) in enumerate(rows) for _ in shown]
        return PairBatch(
            pixels=torch.stack([pixels for pixels, _ in rows]),
            tokens=self._tokenize([self._captions[caption] for caption in captions]),
            picture_ids=self._picture_ids[[image for _, (_, image, *_) in rows]],
            caption_ids=self._caption_ids[captions],
            owners=None if len(captions) == len(rows) else torch.tensor(owners),
        )


class _Pictures(Dataset[Tensor]):
    def __init__(self, dataset: CaptionedImages, transform: Transform, pictures: Pictures | None) -> None:
        self._count = len(dataset.images)
        self._pictures = pictures or _Files(dataset)
        self._transform = transform

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        return self._transform(self._pictures(index))

    def __getitems__(self, indices: list[int]) -> list[Tensor] | MwactlError:
        """A batch, or the error that one of its pictures raised."""
        items: list[Tensor] | MwactlError = _caught(self, indices)
        return items


class _Files:
    """The pictures of a split, decoded each time."""

    def __init__(self, dataset: CaptionedImages) -> None:
        self._images = dataset.images

    def __call__(self, index: int) -> Image.Image:
        return open_image(self._images[index])


class _GivenBatches:
    """A batch sampler that hands on batches made elsewhere."""

    def __init__(self, batches: Iterator[list[Row]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Row]]:
        return self._batches


def _caught(dataset: Any, keys: Sequence[Any]) -> Any:
    """The items, or our error as a value: raised in a worker, it would arrive as one long traceback without a fix."""
    try:
        return [dataset[key] for key in keys]
    except MwactlError as error:
        return error


def _unless_failed(collate: Callable[[Any], Any], items: Any) -> Any:
    return items if isinstance(items, MwactlError) else collate(items)


def _batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; an error that a worker met is raised here. The workers start at once."""

    def batches(loaded: Iterator[Any]) -> Iterator[Any]:
        batch = None
        try:
            for batch in loaded:
                if isinstance(batch, MwactlError):
                    raise batch
                yield batch
        finally:
            # The error knows this frame: were it to know the error, neither would ever go, nor would the workers.
            del batch, loaded

    return batches(iter(loader))


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
