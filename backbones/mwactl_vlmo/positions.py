"""Where tokens are: the rows of the relative bias table, and both tables at another picture size.

The bias table has a row for every displacement of two patches, three for the class token, two for pairs of a word and
a patch, one for every distance of two words, and three for [CLS].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

#: Rows that every table has besides the displacements: 3 of the class token, 2 across modalities.
_CLASS_ROWS = 3
_CROSS_ROWS = 2


def bias_rows(grid: int, longest_text: int) -> int:
    """How many rows the bias table has."""
    return (2 * grid - 1) ** 2 + _CLASS_ROWS + _CROSS_ROWS + 2 * longest_text


def relative_position_index(grid: int, text: int, longest_text: int) -> Tensor:
    """Which row of the bias table belongs to a query and a key.

    Args:
        grid: Patches a side.
        text: Text tokens, [CLS] with them.
        longest_text: The text length the table was made for.

    Returns:
        [text + 1 + grid², text + 1 + grid²] int64 on the CPU, whatever the default device: text tokens first, then
        the class token, then the patches row by row. Its corners are the indices of either modality alone.
    """
    crossing = (2 * grid - 1) ** 2 + _CLASS_ROWS
    index = torch.empty(text + 1 + grid**2, text + 1 + grid**2, dtype=torch.int64, device="cpu")
    index[:text, :text] = _text_index(text, longest_text) + crossing + _CROSS_ROWS
    index[:text, text:] = crossing
    index[text:, :text] = crossing + 1
    index[text:, text:] = _picture_index(grid)
    return index


def _picture_index(grid: int) -> Tensor:
    """[1 + grid², 1 + grid²]: by the query's place minus the key's."""
    span = 2 * grid - 1
    place = torch.arange(grid**2, device="cpu")
    y, x = place // grid, place % grid
    index = torch.empty(1 + grid**2, 1 + grid**2, dtype=torch.int64, device="cpu")
    index[1:, 1:] = (y[:, None] - y + grid - 1) * span + (x[:, None] - x + grid - 1)
    return _with_first_token(index, span**2)


def _text_index(text: int, longest_text: int) -> Tensor:
    """[text, text]: by the key's place minus the query's (the other way round than for patches)."""
    place = torch.arange(text - 1, device="cpu")
    index = torch.empty(text, text, dtype=torch.int64, device="cpu")
    index[1:, 1:] = place - place[:, None] + longest_text - 2
    return _with_first_token(index, 2 * longest_text - 3)


def _with_first_token(index: Tensor, rows: int) -> Tensor:
    """The three rows after `rows`: where the first token asks, where it is asked, where it does both."""
    index[0, :], index[:, 0], index[0, 0] = rows, rows + 1, rows + 2
    return index


def resize_bias_table(table: Tensor, grid: int, longest_text: int) -> Tensor:
    """Resample the displacements of a bias table for another grid of patches; the other rows stay.

    Near displacements are kept nearly as they are and far ones are stretched: the table's own rows are taken to lie
    at 0, ±1, ±(1 + q), ±(1 + q + q²), … with q such that the outermost just reaches the new grid's. Between them runs
    an interpolating cubic spline, beyond them the outermost value: as in the original project, microsoft/unilm.

    Args:
        table: [r, c].
        grid: Patches a side of the model; the table itself is given back where it is the same.
        longest_text: The text length the table was made for.

    Returns:
        [r', c].

    Raises:
        ValueError: The table's displacements are no odd square, or too few for a cubic spline.
    """
    have, new = len(table) - bias_rows(grid, longest_text) + (2 * grid - 1) ** 2, 2 * grid - 1
    old = math.isqrt(max(have, 0))
    if old == new and old * old == have:
        return table
    if old * old != have or old % 2 == 0 or old < 5:
        raise ValueError(f"{len(table)} rows are not {len(table) - have} and the square of an odd number")
    spline = _spline_matrix(old, new)
    square = table[:have].double().view(old, old, -1)  # [r, c] -> [y, x, c]
    resized = torch.einsum("ay,bx,yxc->abc", spline, spline, square)
    return torch.cat([resized.flatten(0, 1).float(), table[have:].float()])  # [y', x', c] -> [r', c]


def _spline_matrix(old: int, new: int) -> Tensor:
    """What resampling `old` values at `new` places does, as a matrix: [new, old] fp64."""
    import numpy
    from scipy.interpolate import make_interp_spline

    place = geometric_places(old, new)
    half = new // 2
    wanted = numpy.clip(numpy.arange(-half, half + 1), place[0], place[-1])
    return torch.from_numpy(make_interp_spline(place, numpy.eye(old), k=3)(wanted))


def geometric_places(old: int, new: int) -> list[float]:
    """Where the `old` values lie among `new` places, counted from the middle one; both are odd."""
    ratio = _ratio(old // 2, new // 2)
    steps = [ratio**step for step in range(old // 2)]
    side = [math.fsum(steps[: end + 1]) for end in range(len(steps))]
    return [*(-place for place in reversed(side)), 0.0, *side]


def _ratio(terms: int, reach: int) -> float:
    """q in 1 + q + … + q^(terms-1) = reach, by bisection between 1.01 and 1.5 to 1e-6, as the original finds it."""
    low, high, ratio = 1.01, 1.5, 1.01
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**terms) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    return ratio


def resize_positions(table: Tensor, grid: int) -> Tensor:
    """Resample an absolute position table to another grid, bicubic and without antialiasing.

    Args:
        table: [1, 1 + p, d], the class token's row first, p a square number.
        grid: Patches a side of the model; the table itself is given back where it is the same.

    Returns:
        [1, 1 + grid², d].

    Raises:
        ValueError: The table's patches are no square.
    """
    have = table.shape[1] - 1
    if have == grid**2:
        return table
    old = math.isqrt(max(have, 0))
    if old * old != have or have == 0:
        raise ValueError(f"{table.shape[1]} rows are not 1 and a square number")
    # In fp64, rounded at the end: torch's fp32 kernels differ in the last bits from one processor to another, and the
    # result is part of the backbone's identity.
    square = table[:, 1:].double().transpose(1, 2).reshape(1, -1, old, old)  # [1, p, d] -> [1, d, √p, √p]
    resized = interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1].double(), resized.flatten(2).transpose(1, 2)], dim=1).float()  # [1, 1 + grid², d]
