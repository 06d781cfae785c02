"""How near two sets of embeddings are, by hand and by the code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mwactl.evaluate.encode import Embeddings
from mwactl.export import parity as module
from mwactl.export.parity import TOLERANCES, Tolerance, compare


def rows(count: int, width: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def embeddings(images: int = 120, texts: int = 160, seed: int = 0) -> Embeddings:
    return Embeddings(rows(images, 8, seed), rows(texts, 8, seed + 1))


PAIRS = np.stack([np.arange(160) % 120, np.arange(160)], axis=1)


def test_a_model_agrees_with_itself():
    reference = embeddings()
    found = compare(reference, reference, PAIRS)
    assert (found.image.max_abs, found.top10) == (0.0, 100.0)
    assert found.image.min_cosine == pytest.approx(1, abs=1e-6)
    assert found.within(TOLERANCES["fp32"])
    assert all(ours == theirs for ours, theirs in found.metrics.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 12))
def test_shared_neighbours_are_those_counted_by_hand(seed, texts, strip):
    reference, other = embeddings(110, texts, seed), embeddings(110, texts, seed + 7)
    before, module._TEXTS_A_STRIP = module._TEXTS_A_STRIP, strip
    try:
        found = compare(reference, other).top10
    finally:
        module._TEXTS_A_STRIP = before
    shared = 0
    for ours, theirs in zip(reference.texts @ reference.images.T, other.texts @ other.images.T, strict=True):
        shared += len(set(np.argsort(-ours)[:10]) & set(np.argsort(-theirs)[:10]))
    assert found == pytest.approx(100 * shared / (10 * texts))


@pytest.mark.parametrize("pictures", [6, 10, 12, 99])
def test_agreement_among_few_pictures_is_no_figure(pictures):
    """Any two models agree on the ten nearest of ten."""
    found = compare(embeddings(pictures, 5), embeddings(pictures, 5, seed=9))
    assert found.top10 is None
    assert found.as_dict()["top10"] is None


def test_two_models_that_have_nothing_in_common_agree_on_little():
    assert compare(embeddings(100, 40), embeddings(100, 40, seed=9)).top10 < 20


def test_the_worst_row_counts():
    reference = embeddings()
    images = reference.images.copy()
    images[7] = -images[7]
    found = compare(reference, Embeddings(images, reference.texts))
    assert found.image.min_cosine == pytest.approx(-1)
    assert found.image.mean_cosine == pytest.approx(1 - 2 / 120)
    assert found.image.max_abs == pytest.approx(2 * np.abs(reference.images[7]).max())
    assert found.text.max_abs == 0
    assert not found.within(TOLERANCES["fp16"])


@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_what_is_no_number_is_never_within_a_tolerance(what):
    reference = embeddings()
    texts = reference.texts.copy()
    texts[3, 2] = what
    with np.errstate(invalid="ignore"):
        found = compare(reference, Embeddings(reference.images, texts))
    assert not found.within(Tolerance(max_abs=1e30, min_cosine=-1e30))
    assert found.text.max_abs > 1e300
    assert np.isnan(what) <= (found.text.min_cosine == -1)


@pytest.mark.parametrize(("apart", "within"), [({}, True), ({"max_abs": 2e-5}, False), ({"min_cosine": 0.9999}, False)])
def test_both_limits_must_hold(apart, within):
    near = module.TowerParity(**{"rows": 1, "max_abs": 1e-6, "min_cosine": 1.0, "mean_cosine": 1.0} | apart)
    assert near.within(TOLERANCES["fp32"]) is within


def test_the_document_says_what_was_gained_or_lost():
    document = compare(embeddings(), embeddings(seed=5), PAIRS).as_dict()
    assert set(document) == {"image", "text", "top10", "recall"}
    for found in document["recall"].values():
        assert found["change"] == pytest.approx(found["exported"] - found["torch"])
    assert compare(embeddings(), embeddings()).as_dict()["recall"] is None
