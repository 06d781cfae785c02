"""Where tokens are, written out pair by pair, and tables at another picture size."""

from __future__ import annotations

import numpy
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from mwactl_vlmo.positions import (
    bias_rows,
    geometric_places,
    relative_position_index,
    resize_bias_table,
    resize_positions,
)

LONGEST = 196


def row_of(query: int, key: int, *, grid: int, text: int, longest: int) -> int:
    """The row for a pair by the published numbering: text first, then the class token, then patches."""
    span = 2 * grid - 1
    picture_rows = span**2 + 3
    rows = picture_rows + 2 * longest + 2
    if query < text and key < text:
        if query and key:
            return key - query + longest - 2 + picture_rows + 2
        return rows - 1 if query == key else rows - 3 if query == 0 else rows - 2
    if query < text or key < text:
        return picture_rows + (query >= text)
    a, b = query - text - 1, key - text - 1
    if a < 0 or b < 0:
        return picture_rows - 1 if a == b else picture_rows - 3 if a < 0 else picture_rows - 2
    return (a // grid - b // grid + grid - 1) * span + (a % grid - b % grid + grid - 1)


@pytest.mark.parametrize(("grid", "text", "longest"), [(2, 5, 5), (3, 8, 12), (4, 2, 20)])
def test_every_pair_has_the_row_of_its_places(grid: int, text: int, longest: int) -> None:
    index = relative_position_index(grid, text, longest)
    tokens = range(text + 1 + grid**2)
    expected = [[row_of(a, b, grid=grid, text=text, longest=longest) for b in tokens] for a in tokens]
    assert index.tolist() == expected
    assert index.max() == bias_rows(grid, longest) - 1


def test_the_official_tables_have_these_rows() -> None:
    assert (bias_rows(14, LONGEST), bias_rows(24, LONGEST)) == (1126, 2606)
    index = relative_position_index(14, 40, LONGEST)
    assert sorted(set(index[40:, 40:].flatten().tolist())) == list(range(732))
    assert sorted(set(index[:40, :40].flatten().tolist())) == [*range(890, 967), 1123, 1124, 1125]


def test_the_index_has_values_though_the_default_device_has_none() -> None:
    with torch.device("meta"):
        assert relative_position_index(2, 3, 4).device.type == "cpu"


@pytest.mark.parametrize(("old", "new", "ratio"), [(27, 47, 1.0903074), (27, 59, 1.1250559)])
def test_places_grow_geometrically_to_the_new_end(old: int, new: int, ratio: float) -> None:
    places = geometric_places(old, new)
    assert len(places) == old
    assert places == [-place for place in reversed(places)]
    steps = numpy.diff(places[old // 2 :])
    assert steps[0] == 1
    assert steps[1:] / steps[:-1] == pytest.approx(ratio, abs=1e-7)
    assert places[-1] == pytest.approx(new // 2, abs=1e-3)
    if new == 47:
        assert places[-1] == pytest.approx(22.99993, abs=1e-5)


def table_of(grid: int, columns: int = 3) -> Tensor:
    return torch.randn(bias_rows(grid, LONGEST), columns, generator=torch.Generator().manual_seed(0))


def test_a_table_of_the_same_grid_is_left_alone() -> None:
    table = table_of(14)
    assert resize_bias_table(table, 14, LONGEST) is table


@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 30), (24, 14), (3, 5)])
def test_a_resized_table_is_a_bicubic_spline_and_keeps_its_other_rows(old: int, new: int) -> None:
    table = table_of(old)
    resized = resize_bias_table(table, new, LONGEST)
    assert resized.shape == (bias_rows(new, LONGEST), 3)
    assert resized.dtype == torch.float32
    kept = 3 + 2 + 2 * LONGEST
    assert torch.equal(resized[-kept:], table[-kept:])
    places, ends = geometric_places(2 * old - 1, 2 * new - 1), numpy.arange(1 - new, new)
    for column in range(3):
        square = table[:-kept, column].double().reshape(2 * old - 1, -1).numpy()
        expected = RectBivariateSpline(places, places, square)(ends, ends)
        numpy.testing.assert_allclose(resized[:-kept, column].reshape(2 * new - 1, -1), expected, atol=2e-6)


def test_a_smooth_function_of_the_displacement_is_reproduced() -> None:
    def smooth(y: Tensor, x: Tensor) -> Tensor:
        return torch.exp(-((y - 3) ** 2 + x**2 / 2) / 200) + 0.01 * x

    old, new = torch.tensor(geometric_places(27, 47)), torch.arange(-23.0, 24.0)
    table = table_of(14, 1)
    table[: 27**2] = smooth(old[:, None], old).reshape(-1, 1)
    resized = resize_bias_table(table, 24, LONGEST)[: 47**2].view(47, 47)
    torch.testing.assert_close(resized, smooth(new[:, None], new), rtol=0, atol=2e-3)
    # Not so where rows and columns are exchanged.
    assert (resized.T - smooth(new[:, None], new)).abs().max() > 0.1


@pytest.mark.parametrize("rows", [100, 397, 397 + 26**2, 397 + 3**2, 1127])
def test_a_table_that_is_no_odd_square_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows are not 397 and the square of an odd number"):
        resize_bias_table(torch.zeros(rows, 2), 24, LONGEST)


def test_picture_positions_are_resampled_without_the_class_token() -> None:
    table = torch.randn(1, 1 + 14**2, 5, generator=torch.Generator().manual_seed(0))
    assert resize_positions(table, 14) is table
    resized = resize_positions(table.half(), 24)
    assert resized.shape == (1, 1 + 24**2, 5)
    assert torch.equal(resized[:, 0], table[:, 0].half().float())
    grid = table[0, 1:].half().float().view(14, 14, 5).permute(2, 0, 1)
    expected = torch.nn.functional.interpolate(grid[None], (24, 24), mode="bicubic")[0].permute(1, 2, 0)
    torch.testing.assert_close(resized[0, 1:].view(24, 24, 5), expected)


@pytest.mark.parametrize("rows", [1, 198])
def test_picture_positions_that_are_no_square_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows are not 1 and a square number"):
        resize_positions(torch.zeros(1, rows, 4), 24)
