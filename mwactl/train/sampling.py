"""Which pairs a step sees: a pure function of seed, epoch and position, so a run can go on from any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Row = tuple[int, ...]
"""(epoch, image index, caption indices …): one picture, and those of its captions that are shown with it."""


class EpochPlan:
    """The batches of every epoch.

    Args:
        pairs: (image index, caption index), [p, 2].
        batch_size: Pairs a batch, at most: `batch_size // k` pictures with up to k captions each. A last batch of fewer
            is kept unless it is a single picture (it has no negative).
        captions: `random`: each picture once an epoch; `all`: every pair once.
        seed: Of the order and of the choice of captions.
        captions_per_image: k, lowered to the most captions that a picture has. `random` shows k captions of each
            picture, drawn anew every epoch, or all where there are fewer; `all` deals a picture's captions out at
            random, k at a time, so a picture is shown as often as it takes.
    """

    def __init__(
        self,
        pairs: NDArray[np.int64],
        *,
        batch_size: int,
        captions: Literal["random", "all"],
        seed: int,
        captions_per_image: int = 1,
    ) -> None:
        self._pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        self._first = np.flatnonzero(np.diff(self._pairs[:, 0], prepend=-1))  # each image's first row
        self._count = np.diff(self._first, append=len(self._pairs))  # and how many rows it has
        self._together = min(captions_per_image, int(self._count.max()))
        self._pictures_per_batch = batch_size // self._together
        self._captions = captions
        self._seed = seed

    @property
    def captions_per_image(self) -> int:
        """The most captions that a picture is shown with."""
        return self._together

    @property
    def pairs_per_epoch(self) -> int:
        """Pairs an epoch shows."""
        shown = self._count if self._captions == "all" else np.minimum(self._count, self._together)
        return int(shown.sum())

    @property
    def rows_per_epoch(self) -> int:
        """Pictures an epoch shows; one that is shown twice counts twice."""
        times = -(-self._count // self._together)
        return len(self._count) if self._captions == "random" else int(times.sum())

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch has."""
        full, rest = divmod(self.rows_per_epoch, self._pictures_per_batch)
        return full + (rest > 1)

    def rows(self, epoch: int) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        """What an epoch shows, in order: each row a picture's index and the indices of its captions."""
        rng = np.random.default_rng([self._seed, epoch])
        if self._together > 1:
            return self._dealt(rng)
        if self._captions == "random":
            chosen = self._first + rng.integers(self._count)
            order = rng.permutation(chosen)
        else:
            order = rng.permutation(len(self._pairs))
        rows: NDArray[np.int64] = self._pairs[order]
        return rows

    def _dealt(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Every picture's captions in random order, cut into hands of `captions_per_image`; the hands shuffled."""
        shuffled = self._pairs[np.lexsort((rng.random(len(self._pairs)), self._pairs[:, 0]))]
        place = np.arange(len(shuffled)) - np.repeat(self._first, self._count)  # within its picture, from 0
        if self._captions == "random":
            shuffled, place = shuffled[place < self._together], place[place < self._together]
        starts = np.flatnonzero(place % self._together == 0)
        ends = np.append(starts[1:], len(shuffled))
        return [
            np.append(shuffled[starts[hand], 0], shuffled[starts[hand] : ends[hand], 1])
            for hand in rng.permutation(len(starts))
        ]

    def batches(self, *, first_step: int, epochs: int) -> Iterator[list[Row]]:
        """The batches from `first_step` (counted over the whole run) to the end of the last epoch."""
        size = self._pictures_per_batch
        start_epoch, skip = divmod(first_step, self.steps_per_epoch)
        for epoch in range(start_epoch, epochs):
            rows = self.rows(epoch)
            for step in range(skip, self.steps_per_epoch):
                yield [(epoch, *row.tolist()) for row in rows[step * size : (step + 1) * size]]
            skip = 0
