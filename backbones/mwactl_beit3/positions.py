"""The picture position table at another picture size."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

#: Two unused rows and the class token's.
_KEPT_ROWS = 3


def resize_positions(table: Tensor, patches: int) -> Tensor:
    """Resample the rows of the patches to another grid, bicubic and without antialiasing, as the original does.

    Args:
        table: [3 + p, d], p a square number.
        patches: p of the model; the table itself is given back where it is the same.

    Returns:
        [3 + patches, d].

    Raises:
        ValueError: It is no table, or its patches are no square.
    """
    if table.dim() != 2:
        raise ValueError(f"{list(table.shape)} is not the shape of a table")
    have = len(table) - _KEPT_ROWS
    if have == patches:
        return table
    old, new = math.isqrt(max(have, 0)), math.isqrt(patches)
    if old * old != have or have == 0:
        raise ValueError(f"{len(table)} rows are not {_KEPT_ROWS} and a square number")
    # In fp64, rounded at the end: torch's fp32 kernels differ in the last bits from one processor to another, and the
    # result is part of the backbone's identity.
    grid = torch.unflatten(table[_KEPT_ROWS:].double().T, 1, (old, old))  # [p, d] -> [d, √p, √p]
    resized = interpolate(grid[None], size=(new, new), mode="bicubic", align_corners=False)[0]
    return torch.cat([table[:_KEPT_ROWS].double(), resized.flatten(1).T]).float()  # [d, √p', √p'] -> [p', d]
