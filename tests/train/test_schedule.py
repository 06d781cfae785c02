from __future__ import annotations

from itertools import pairwise

import pytest

from mwactl.train.schedule import learning_rate


def rates(total: int, warmup: float, floor: float = 0.0) -> list[float]:
    return [learning_rate(step, total=total, warmup=warmup, peak=1.0, floor=floor) for step in range(total)]


def test_warm_up_is_linear_from_above_zero_to_the_peak():
    assert rates(100, 0.1)[:10] == pytest.approx([0.1 * step for step in range(1, 11)])


def test_after_the_warm_up_it_is_half_a_cosine_down_to_the_floor():
    values = rates(110, 10 / 110, floor=0.2)
    assert values[10] == 1.0
    assert values[60] == pytest.approx(0.6)  # half way between peak and floor
    assert values[-1] == pytest.approx(0.2, abs=1e-3)
    assert values[-1] > 0.2
    falls = [earlier - later for earlier, later in pairwise(values[10:])]
    assert min(falls) > 0
    assert max(falls) == pytest.approx(falls[len(falls) // 2], rel=0.05), "steepest in the middle"


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert rates(5, 0.0)[0] == 1.0


@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_runs_have_rates_above_zero(total: int):
    assert all(0 < rate <= 1 for rate in rates(total, 0.99))
