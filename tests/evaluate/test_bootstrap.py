"""Resamples are what a literal bootstrap draws, and intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pytest

from mwactl.evaluate import bootstrap
from mwactl.evaluate.bootstrap import metric_intervals, percentile_interval, resample
from mwactl.evaluate.metrics import METRICS, direction_metrics, rsum
from mwactl.evaluate.queries import QueryRanks


def literal(ranks: QueryRanks, drawn) -> list[float]:
    """The metrics of pictures drawn with replacement, query by query: nothing is added up beforehand."""
    captions = {
        i: [q for q, picture in enumerate(ranks.pictures) if picture == i] for i in range(len(ranks.image_to_text))
    }
    image_to_text = direction_metrics(np.array([ranks.image_to_text[i] for i in drawn]))
    text_to_image = direction_metrics(np.array([ranks.text_to_image[q] for i in drawn for q in captions[i]]))
    found = {
        f"{way}.R@{k}": side[f"R@{k}"]
        for way, side in (("i2t", image_to_text), ("t2i", text_to_image))
        for k in (1, 5, 10)
    }
    return [found[name] for name in METRICS[:-1]] + [rsum(image_to_text, text_to_image)]


def test_every_resample_is_that_of_a_literal_loop_with_the_same_draws(make_ranks):
    contestants = [make_ranks(1), make_ranks(2, skill=0.1)]
    sample = resample(contestants, resamples=50, seed=7)
    draws = np.random.default_rng([7, 0]).integers(60, size=(50, 60))
    for at, ranks in enumerate(contestants):
        np.testing.assert_allclose(sample.draws[:, at], [literal(ranks, drawn) for drawn in draws], atol=1e-9)
        np.testing.assert_allclose(sample.found[at], literal(ranks, range(60)), atol=1e-9)


def test_blocks_of_resamples_do_not_change_them(make_ranks, monkeypatch):
    whole = resample([make_ranks(1)], resamples=50).draws
    monkeypatch.setattr(bootstrap, "_DRAWS_A_BLOCK", 7 * 60 + 1)
    np.testing.assert_array_equal(resample([make_ranks(1)], resamples=50).draws, whole)


def test_under_a_protocol_of_blocks_each_block_is_drawn_from_by_itself_and_the_metrics_are_means(make_ranks):
    ranks = make_ranks(1, folds=3)
    sample = resample([ranks], resamples=20, seed=7)
    expected = np.zeros((20, len(METRICS)))
    for fold in range(3):
        draws = 20 * fold + np.random.default_rng([7, fold]).integers(20, size=(20, 20))
        expected += np.array([literal(ranks, drawn) for drawn in draws]) / 3
    np.testing.assert_allclose(sample.draws[:, 0], expected, atol=1e-9)


def test_intervals_are_percentiles_of_the_resamples_under_the_names_of_the_metrics(make_ranks):
    intervals = metric_intervals(make_ranks(1), resamples=200, seed=3)
    assert intervals is not None
    draws = resample([make_ranks(1)], resamples=200, seed=3).draws[:, 0]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    assert intervals["text_to_image"]["R@5"] == pytest.approx([low[4], high[4]])
    assert intervals["image_to_text"]["R@1"] == pytest.approx([low[0], high[0]])
    assert intervals["rsum"] == pytest.approx([low[6], high[6]])
    assert (intervals["level"], intervals["resamples"], intervals["seed"]) == (0.95, 200, 3)
    assert metric_intervals(make_ranks(1), resamples=200, seed=3) == intervals


def test_captions_of_a_picture_stay_together():
    """Five captions that are always found or lost together say as much as one: the interval is no narrower."""
    found = np.where(np.arange(100) % 2, 1, 50)
    one = QueryRanks(found, found, np.arange(100), np.arange(100))
    five = QueryRanks(found, np.repeat(found, 5), np.arange(500), np.repeat(np.arange(100), 5))
    assert metric_intervals(one) == metric_intervals(five)


def test_an_interval_covers_the_true_recall_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        hits = np.where(rng.random(200) < 0.3, 1, 50)
        ranks = QueryRanks(hits, hits, np.arange(200), np.arange(200))
        low, high = percentile_interval(resample([ranks], resamples=300).draws[:, 0, 0])
        covered += bool(low <= 30 <= high)
    assert covered / 300 == pytest.approx(0.945, abs=0.035)


def test_one_picture_has_no_interval():
    assert metric_intervals(QueryRanks(np.array([1]), np.array([1, 7]), np.arange(2), np.zeros(2, int))) is None


def test_a_draw_without_any_caption_finds_none():
    """Two pictures that share their only caption: it is resampled with the first."""
    ranks = QueryRanks(np.array([1, 1]), np.array([1]), np.array([0]), np.array([0]))
    found = resample([ranks], resamples=100).draws[:, 0, METRICS.index("t2i.R@1")]
    assert set(found) == {0.0, 100.0}
