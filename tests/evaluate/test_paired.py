"""The paired comparison, against a literal one."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from mwactl.evaluate.bootstrap import resample
from mwactl.evaluate.metrics import METRICS
from mwactl.evaluate.paired import differences, holm, mcnemar, p_value, rank_one_tests
from mwactl.evaluate.queries import QueryRanks

RESAMPLES = 200


def exact(ranks: QueryRanks, drawn) -> list[Fraction]:
    """The metrics of pictures drawn with replacement, in exact fractions, query by query."""
    queries = {i: [] for i in range(len(ranks.image_to_text))}
    for picture, rank in zip(ranks.pictures.tolist(), ranks.text_to_image.tolist(), strict=True):
        queries[picture].append(rank)
    sides = ([int(ranks.image_to_text[i]) for i in drawn], [rank for i in drawn for rank in queries[i]])
    recalls = [Fraction(100 * sum(rank <= k for rank in side), len(side)) for side in sides for k in (1, 5, 10)]
    return [*recalls, sum(recalls, Fraction(0))]


def test_it_agrees_with_a_brute_force_paired_bootstrap_on_the_same_ranks(make_ranks):
    baseline, contestant = make_ranks(1, skill=0.2), make_ranks(2, skill=0.25)
    [found] = differences(resample([baseline, contestant], resamples=RESAMPLES, seed=5))
    drawn = np.random.default_rng([5, 0]).integers(60, size=(RESAMPLES, 60)).tolist()
    drawn_metrics = [(exact(baseline, each), exact(contestant, each)) for each in drawn]
    observed = [b - a for a, b in zip(exact(baseline, range(60)), exact(contestant, range(60)), strict=True)]
    for at, name in enumerate(METRICS):
        deltas = [b[at] - a[at] for a, b in drawn_metrics]
        below, above = sum(d <= 0 for d in deltas), sum(d >= 0 for d in deltas)
        assert found[name].difference == pytest.approx(float(observed[at]), abs=1e-9)
        assert found[name].p == min(1.0, 2 * (1 + min(below, above)) / (1 + RESAMPLES))
        assert found[name].interval == pytest.approx(np.quantile([float(d) for d in deltas], [0.025, 0.975]), abs=1e-9)
        spread = float(np.std([float(d) for d in deltas], ddof=1))
        assert found[name].smallest_difference == pytest.approx((1.959964 + 0.841621) * spread, rel=1e-5)
    assert {each.p for each in found.values()} - {1.0}, "a test of nothing"


def test_identical_contestants_differ_by_nothing_with_p_1(make_ranks):
    [found] = differences(resample([make_ranks(1), make_ranks(1)]))
    for each in found.values():
        assert (each.difference, each.interval, each.p, each.p_holm) == (0.0, (0.0, 0.0), 1.0, 1.0)
        assert each.smallest_difference is None


def test_what_cancels_exactly_in_the_rsum_is_neither_better_nor_worse():
    """One is as good with pictures as the other is with captions: zero, though not in the last bit of a float."""
    one, other = np.array([1, 50, 9, 1, 4, 50, 1]), np.array([50, 3, 50, 50, 1, 50, 8])
    sides = ((one, other), (other, one))
    sample = resample([QueryRanks(images, texts, np.arange(7), np.arange(7)) for images, texts in sides])
    apart = sample.draws[:, 1, -1] - sample.draws[:, 0, -1]
    assert 0 < np.abs(apart).max() < 1e-9, "nothing here needs to be rounded: a test of nothing"
    [found] = differences(sample)
    assert (found["rsum"].p, found["rsum"].interval) == (1.0, (0.0, 0.0))
    assert found["i2t.R@1"].p < 1.0


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_few_differing_pictures_never_have_a_smaller_p_than_a_test_of_signs(changed):
    baseline = QueryRanks(np.full(changed, 9), np.full(changed, 9), np.arange(changed), np.arange(changed))
    better = QueryRanks(np.full(changed, 1), np.full(changed, 1), np.arange(changed), np.arange(changed))
    [found] = differences(resample([baseline, better]))
    assert found["i2t.R@1"].difference == 100.0
    assert found["i2t.R@1"].p == mcnemar(baseline.image_to_text, better.image_to_text).p == 2.0 ** (1 - changed)
    assert (found["i2t.R@1"].interval is None) == (changed == 1)


def test_a_true_null_is_rejected_about_as_often_as_five_percent():
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        a, b = (np.where(rng.random(150) < 0.4, 1, 50) for _ in range(2))
        pair = [QueryRanks(hits, hits, np.arange(150), np.arange(150)) for hits in (a, b)]
        [found] = differences(resample(pair, resamples=300))
        rejected += found["i2t.R@1"].p < 0.05
    assert 0.01 <= rejected / 300 <= 0.09


def test_the_smallest_difference_is_found_in_four_of_five_sets():
    rng = np.random.default_rng(1)
    n, lift = 400, 0.08
    found = []
    for _ in range(200):
        a = rng.random(n) < 0.3
        b = np.where(a, rng.random(n) < 0.9, rng.random(n) < (0.3 + lift - 0.27) / 0.7)
        pair = [QueryRanks(np.where(hits, 1, 50), np.ones(n, int), np.arange(n), np.arange(n)) for hits in (a, b)]
        [each] = differences(resample(pair, resamples=300))
        found.append(each["i2t.R@1"])
    smallest = np.mean([each.smallest_difference for each in found])
    power = np.mean([each.p < 0.05 for each in found])
    # By the normal curve: the true lift over the standard error says the power that the claimed size implies.
    from scipy.stats import norm

    implied = norm.cdf(100 * lift / (smallest / (1.959964 + 0.841621)) - 1.959964)
    assert power == pytest.approx(implied, abs=0.08)


def test_p_is_below_five_percent_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(0)
    for shift in np.linspace(1.5, 2.5, 21):
        draws = rng.standard_normal(9_999) + shift
        low = np.quantile(draws, 0.025)
        if abs(low) > 0.02:
            assert (p_value(draws, 100) < 0.05) == (low > 0)


def test_mcnemar_is_the_binomial_test_of_the_queries_that_only_one_answers():
    baseline = np.array([1] * 20 + [3] * 12 + [1] * 5 + [2] * 5)
    contestant = np.array([2] * 20 + [1] * 12 + [1] * 5 + [4] * 5)
    found = mcnemar(baseline, contestant)
    tail = sum(math.comb(32, k) for k in range(13)) / 2**32
    assert (found.only_baseline, found.only_contestant) == (20, 12)
    assert found.p == pytest.approx(2 * tail)
    assert mcnemar(baseline, baseline).p == 1.0


def test_both_directions_have_their_own_mcnemar():
    baseline = QueryRanks(np.array([1, 1]), np.array([9, 9, 9]), np.arange(3), np.array([0, 0, 1]))
    contestant = QueryRanks(np.array([2, 2]), np.array([1, 1, 1]), np.arange(3), np.array([0, 0, 1]))
    tests = rank_one_tests(baseline, contestant)
    assert (tests["i2t.R@1"].only_baseline, tests["i2t.R@1"].only_contestant) == (2, 0)
    assert (tests["t2i.R@1"].only_baseline, tests["t2i.R@1"].only_contestant) == (0, 3)


def test_holm_steps_down_from_the_smallest():
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.9])), [0.09, 0.04, 0.09, 0.9])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])
    np.testing.assert_allclose(holm(np.array([0.2])), [0.2])


def test_holm_is_over_the_contestants_of_each_metric(make_ranks):
    base, near, far = make_ranks(1, skill=0.1), make_ranks(2, skill=0.11), make_ranks(3, skill=0.6)
    found = differences(resample([base, near, far], resamples=400))
    for name in METRICS:
        corrected = holm(np.array([each[name].p for each in found]))
        assert [each[name].p_holm for each in found] == corrected.tolist()
    assert found[1]["rsum"].p_holm == 2 * found[1]["rsum"].p
