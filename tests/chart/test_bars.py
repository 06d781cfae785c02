from __future__ import annotations

import pytest

from mwactl.chart import bars


def test_the_lowest_value_is_the_lowest_bar_and_the_highest_the_highest():
    assert bars([0.0, 3.5, 7.0]) == "▁▅█"
    assert bars([7.0, 0.0]) == "█▁"


def test_equal_values_are_a_flat_line():
    assert bars([2.0, 2.0, 2.0]) == "▁▁▁"


def test_more_values_than_there_is_room_for_are_averaged_with_their_neighbours():
    assert bars([0, 2, 6, 8, 13, 15], width=3) == bars([1, 7, 14])
    assert len(bars(range(997), width=60)) == 60
    assert bars([1, 2], width=60) == bars([1, 2])


def test_no_values_are_no_curve():
    with pytest.raises(ValueError, match="empty"):
        bars([])
