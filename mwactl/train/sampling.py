"""Which pairs a step sees: a pure function of seed, epoch and position, so a run can go on from any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Row = tuple[int, int, int]
"""(epoch, image index, caption index)."""


class EpochPlan:
    """The batches of every epoch.

    Args:
        pairs: (image index, caption index), [p, 2].
        batch_size: Pairs a batch; a last batch of fewer is kept unless it is a single pair (it has no negative).
        captions: `random`: each picture once an epoch with one of its captions; `all`: every pair once.
        seed: Of the order and of the choice of captions.
    """

    def __init__(
        self, pairs: NDArray[np.int64], *, batch_size: int, captions: Literal["random", "all"], seed: int
    ) -> None:
        self._pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        self._first = np.flatnonzero(np.diff(self._pairs[:, 0], prepend=-1))  # each image's first row
        self._count = np.diff(self._first, append=len(self._pairs))  # and how many rows it has
        self._batch_size = batch_size
        self._captions = captions
        self._seed = seed

    @property
    def rows_per_epoch(self) -> int:
        """Pairs an epoch shows."""
        return len(self._first) if self._captions == "random" else len(self._pairs)

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch has."""
        full, rest = divmod(self.rows_per_epoch, self._batch_size)
        return full + (rest > 1)

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """The pairs of an epoch in the order they are shown, [r, 2]."""
        rng = np.random.default_rng([self._seed, epoch])
        if self._captions == "random":
            chosen = self._first + rng.integers(self._count)
            order = rng.permutation(chosen)
        else:
            order = rng.permutation(len(self._pairs))
        rows: NDArray[np.int64] = self._pairs[order]
        return rows

    def batches(self, *, first_step: int, epochs: int) -> Iterator[list[Row]]:
        """The batches from `first_step` (counted over the whole run) to the end of the last epoch."""
        start_epoch, skip = divmod(first_step, self.steps_per_epoch)
        for epoch in range(start_epoch, epochs):
            rows = self.rows(epoch)
            for step in range(skip, self.steps_per_epoch):
                chunk = rows[step * self._batch_size : (step + 1) * self._batch_size]
                yield [(epoch, int(image), int(caption)) for image, caption in chunk]
            skip = 0
