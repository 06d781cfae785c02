"""The picture position table at another size: the original's resampling, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mwactl_beit3.positions import resize_positions


def table(side: int, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(3 + side * side, width, generator=torch.Generator().manual_seed(seed))


def test_a_table_of_the_models_grid_is_given_back_as_it_is() -> None:
    own = table(14)
    assert resize_positions(own, 196) is own
    half = own.half()
    assert resize_positions(half, 196) is half


def test_a_table_that_fits_is_not_asked_to_be_square() -> None:
    assert len(resize_positions(torch.zeros(3 + 6, 4), 6)) == 9


@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 30), (24, 14), (2, 3), (1, 4)])
def test_unused_and_class_rows_are_kept_and_the_grid_is_torchs_bicubic(old: int, new: int) -> None:
    own = table(old)
    resized = resize_positions(own, new * new)
    assert resized.shape == (3 + new * new, 8)
    assert torch.equal(resized[:3], own[:3])
    # By hand: one grid a channel, filled row by row.
    grid = torch.empty(1, 8, old, old)
    for y in range(old):
        for x in range(old):
            grid[0, :, y, x] = own[3 + y * old + x]
    expected = interpolate(grid, size=(new, new), mode="bicubic", align_corners=False, antialias=False)
    for y in range(new):
        for x in range(new):
            torch.testing.assert_close(resized[3 + y * new + x], expected[0, :, y, x], rtol=0, atol=1e-5)


def test_rows_run_along_the_pictures_lines() -> None:
    down, across = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    own = torch.cat([torch.zeros(3, 2), torch.stack([down, across], dim=-1).flatten(0, 1)])
    grid = resize_positions(own, 64)[3:].unflatten(0, (8, 8))
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    torch.testing.assert_close(grid[:, :, 0], grid[:, :, 1].T)


def test_a_constant_grid_stays_constant() -> None:
    own = torch.cat([torch.zeros(3, 4), torch.full((196, 4), 0.7)])
    torch.testing.assert_close(resize_positions(own, 576)[3:], torch.full((576, 4), 0.7))


def test_half_precision_is_resampled_in_fp32() -> None:
    own = table(14).half()
    resized = resize_positions(own, 576)
    assert resized.dtype == torch.float32
    assert torch.equal(resized, resize_positions(own.float(), 576))


@pytest.mark.parametrize("shape", [(), (28,), (1, 28, 4)])
def test_what_is_no_table_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is not the shape of a table"):
        resize_positions(torch.zeros(shape), 576)


@pytest.mark.parametrize("rows", [0, 2, 3, 5, 3 + 195, 3 + 197])
def test_a_grid_that_is_no_square_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows are not 3 and a square number"):
        resize_positions(torch.zeros(rows, 4), 576)
