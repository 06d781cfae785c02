"""How much of a batch is encoded at once: as asked for, or as much as the GPU's memory holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mwactl.errors import ResourceError


class MicroBatch:
    """The size of a micro batch, which `auto` lowers whenever the memory does not hold it.

    Args:
        asked: `train.micro_batch_size`.
        batch_size: `train.batch_size`.
        processes: Among how many a batch is divided.
        sharded: Whether they share a backbone too, so that no size can be tried.
    """

    def __init__(
        self, asked: int | Literal["auto"] | None, batch_size: int, processes: int = 1, *, sharded: bool = False
    ) -> None:
        self.auto = asked == "auto"
        self.size: int | None = None if asked == "auto" else asked
        """Pictures, or captions, that are encoded at once; None: the whole batch."""
        self._batch_size = batch_size
        self._largest_share = -(-batch_size // processes)
        self._sharded = sharded

    def resume(self, size: int | None) -> None:
        """Go on with the size that an earlier process found."""
        if self.auto:
            self.size = size

    def fit(self, attempt: Callable[[int | None], Tensor]) -> Tensor:
        """What an attempt gives; with `auto` it is repeated with half the size until it fits.

        Args:
            attempt: Is called with the size. It must leave nothing that a second call does not undo.

        Raises:
            ResourceError: The GPU's memory is not enough, and may not be or cannot be spared further.
        """
        while True:
            try:
                return attempt(self.size)
            except torch.cuda.OutOfMemoryError as error:
                size = self.size or self._largest_share
                if not self.auto or size == 1:
                    raise self.too_large(error) from error
            # Here, not above: the error holds the frames of the failed attempt, and with them its tensors.
            self.size = -(-size // 2)
            torch.cuda.empty_cache()

    def too_large(self, error: torch.cuda.OutOfMemoryError) -> ResourceError:
        """What to say of too little memory, and what helps."""
        part = -(-(self.size or self._largest_share) // 2) if self._sharded else "auto"
        if self.auto or self.size == 1:
            fix = f"train.batch_size={max(2, self._batch_size // 2)}, a smaller backbone, or method.mwa.layers='last 4'"
        else:
            fix = f"train.micro_batch_size={part}   (the same batch, encoded in parts)"
        return ResourceError(
            "the GPU's memory is not enough for this batch",
            why=str(error).splitlines()[0][:200],
            fix=fix,
        )
