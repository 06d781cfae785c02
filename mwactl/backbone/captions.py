"""Captions of different lengths as one tensor of ids."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def caption_rows(captions: Iterable[list[int]], length: int, *, begin: int, end: int, padding: int) -> Tensor:
    """Ids of captions -> [b, length] int64, each between `begin` and `end`, cut to the length, padded on the right."""
    rows = [[begin, *ids[: length - 2], end] for ids in captions]
    padded = [row + [padding] * (length - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64).view(len(rows), length)
