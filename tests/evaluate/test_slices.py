"""Slices: who is in them, and that each is compared as if it were all there is."""

from __future__ import annotations

import numpy as np
import pytest

from mwactl.evaluate.bootstrap import resample
from mwactl.evaluate.paired import differences
from mwactl.evaluate.queries import QueryRanks
from mwactl.evaluate.slices import NO_TAG, Slice, by_length, by_tag, slice_differences


def captions(words) -> list[str]:
    return [" ".join(["word"] * count) for count in words]


def test_captions_and_pictures_are_in_thirds_by_words():
    ranks = QueryRanks(np.ones(6, int), np.ones(12, int), np.arange(12), np.repeat(np.arange(6), 2))
    words = [3, 20, 4, 5, 9, 9, 8, 8, 15, 11, 30, 7]  # means 11.5, 4.5, 9, 8, 13, 18.5
    short, medium, long = by_length(captions(words), ranks)
    assert np.flatnonzero(short.queries).tolist() == [0, 2, 3, 11]
    assert np.flatnonzero(medium.queries).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(long.queries).tolist() == [1, 8, 9, 10]
    assert [np.flatnonzero(part.pictures).tolist() for part in (short, medium, long)] == [[1, 3], [0, 2], [4, 5]]
    assert medium.facts == {"words": {"image_to_text": [9.0, 11.5], "text_to_image": [8.0, 9.0]}}


def test_captions_all_of_one_length_are_one_slice():
    ranks = QueryRanks(np.ones(4, int), np.ones(4, int), np.arange(4), np.arange(4))
    [only] = by_length(captions([7, 7, 7, 7]), ranks)
    assert (only.name, only.pictures.all(), only.queries.all()) == ("short", True, True)


def test_words_are_those_of_the_query_s_caption_whatever_the_order_of_the_queries():
    ranks = QueryRanks(np.ones(3, int), np.ones(3, int), np.array([2, 0, 1]), np.arange(3))
    short, _, long = by_length(captions([1, 5, 9]), ranks)
    assert (np.flatnonzero(short.queries).tolist(), np.flatnonzero(long.queries).tolist()) == ([1], [0])


def test_a_caption_has_the_tag_of_its_picture():
    ranks = QueryRanks(np.ones(3, int), np.ones(5, int), np.arange(5), np.array([0, 0, 1, 2, 2]))
    none, indoor, outdoor = by_tag(("outdoor", "", "indoor"), ranks)
    assert [part.name for part in (none, indoor, outdoor)] == [NO_TAG, "indoor", "outdoor"]
    assert (indoor.pictures.tolist(), indoor.queries.tolist()) == ([False, False, True], [False] * 3 + [True] * 2)


def test_a_slice_is_compared_as_if_nothing_else_were_there(make_ranks):
    """Pictures 0 to 39 with all their captions: the same numbers as of ranks that hold nothing else."""
    pair = [make_ranks(1), make_ranks(2, skill=0.15)]
    inside = pair[0].pictures < 40
    part = Slice("first", np.arange(60) < 40, inside, {})
    alone = [
        QueryRanks(each.image_to_text[:40], each.text_to_image[inside], np.arange(inside.sum()), each.pictures[inside])
        for each in pair
    ]
    [[found]] = slice_differences(pair, [part])
    [expected] = differences(resample(alone))
    assert set(found.metrics) == set(expected) - {"rsum"}
    for name, each in found.metrics.items():
        assert (each.baseline, each.contestant) == (expected[name].baseline, expected[name].contestant)
        assert each.interval == pytest.approx(expected[name].interval, abs=1.0)  # other draws
        assert each.p == pytest.approx(expected[name].p, abs=0.05)


def test_a_direction_without_queries_in_the_slice_is_left_out(make_ranks):
    pair = [make_ranks(1), make_ranks(2)]
    pictures, nothing = np.ones(60, bool), np.zeros(len(pair[0].pictures), bool)
    [[found]] = slice_differences(pair, [Slice("pictures only", pictures, nothing, {})])
    assert list(found.metrics) == ["i2t.R@1", "i2t.R@5", "i2t.R@10"]


def test_some_captions_of_a_picture_can_be_in_a_slice():
    pictures = np.repeat(np.arange(50), 2)
    ranks = QueryRanks(np.ones(50, int), np.tile([1, 40], 50), np.arange(100), pictures)
    worse = QueryRanks(np.ones(50, int), np.tile([40, 40], 50), np.arange(100), pictures)
    first = np.tile([True, False], 50)
    part = Slice("first captions", np.zeros(50, bool), first, {})
    [[found], [other]] = slice_differences([ranks, worse, ranks], [part])
    assert found.metrics["t2i.R@1"].difference == -100.0
    assert other.metrics["t2i.R@1"].difference == 0.0
