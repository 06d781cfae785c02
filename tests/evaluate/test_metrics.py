"""Recall, median, mean and RSUM of given ranks."""

from __future__ import annotations

import numpy as np
import pytest

from mwactl.errors import UsageError
from mwactl.evaluate.metrics import direction_metrics, rsum


def test_recall_counts_ranks_up_to_and_including_k():
    metrics = direction_metrics(np.array([1, 1, 2, 5, 6, 10, 11, 400]))
    assert metrics == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "median_rank": 5.5, "mean_rank": 54.5}


def test_metrics_are_plain_unrounded_floats_in_percent():
    metrics = direction_metrics(np.array([1, 7, 7]))
    assert metrics["R@1"] == 100 / 3
    assert all(type(value) is float for value in metrics.values())


def test_all_first_is_100_and_all_last_is_0():
    assert direction_metrics(np.ones(30, np.int64))["R@1"] == 100
    assert direction_metrics(np.full(30, 1000))["R@10"] == 0


def test_rsum_is_the_sum_of_the_six_recalls():
    first = direction_metrics(np.array([1, 1, 6, 11]))  # 50 + 50 + 75
    second = direction_metrics(np.array([2, 20]))  # 0 + 50 + 50
    assert rsum(first, second) == rsum(second, first) == 275.0


@pytest.mark.parametrize("ranks", [[], [0, 1], [[1, 2]]])
def test_what_are_no_ranks_is_refused(ranks):
    with pytest.raises(UsageError, match="at least one rank"):
        direction_metrics(np.array(ranks, np.int64))
