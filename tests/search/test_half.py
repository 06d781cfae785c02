from __future__ import annotations

import numpy as np

from mwactl.search.half import widen


def test_every_finite_half_becomes_the_same_number():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)].reshape(-1, 2)
    assert finite.size == 2**16 - 2 * 2**10
    assert np.array_equal(widen(finite).view(np.int32), finite.astype(np.float32).view(np.int32))  # -0.0 too


def test_rows_of_a_map_that_are_not_in_one_piece_are_widened_too():
    rows = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float16)
    assert np.array_equal(widen(rows[::2, ::4]), rows[::2, ::4].astype(np.float32))
    assert widen(rows[:0]).shape == (0, 16)


def test_float32_is_given_back_as_it_is():
    rows = np.ones((2, 3), np.float32)
    assert widen(rows) is rows
