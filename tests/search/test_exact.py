from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mwactl.search.exact import search_exactly

# Entries whose products and sums float32 has exactly: no order of summation changes a score, and ties abound.
ENTRIES = np.array([-0.5, -0.25, 0.0, 0.25, 0.5], np.float32)


def brute_force(vectors, queries, k, mask=None):
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")
    found = [[row for row in order if mask is None or mask[row]][:k] for order in rows]
    return np.array([row + [-1] * (k - len(row)) for row in found])


def cut(vectors, mask, sizes):
    """The blocks of a collection whose parts have these sizes."""
    start = 0
    for size in [*sizes, len(vectors)]:
        block = vectors[start : start + size]
        if len(block):
            yield start, block, None if mask is None else mask[start : start + size]
        start += size


@st.composite
def problems(draw):
    n, q = draw(st.integers(0, 60)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    mask = draw(st.sampled_from([None, 0.0, 0.3, 1.0]))
    return (
        rng.choice(ENTRIES, (n, 3)),
        rng.choice(ENTRIES, (q, 3)),
        draw(st.integers(1, 70)),
        None if mask is None else rng.random(n) < mask,
        draw(st.lists(st.integers(1, 20), max_size=5)),
        draw(st.integers(1, 64)),
        draw(st.sampled_from([np.float16, np.float32])),
    )


@settings(deadline=None, max_examples=150)
@given(problems())
def test_the_best_k_are_those_of_a_stable_sort_whatever_the_parts_and_blocks(problem):
    vectors, queries, k, mask, sizes, block_rows, dtype = problem
    best = search_exactly(cut(vectors.astype(dtype), mask, sizes), queries, k, block_rows=block_rows)
    expected = brute_force(vectors, queries, k, mask)
    assert np.array_equal(best.rows, expected)
    for query, (rows, scores) in enumerate(zip(best.rows, best.scores, strict=True)):
        known = rows >= 0
        assert np.array_equal(scores[known], vectors[rows[known]] @ queries[query])
        assert np.isneginf(scores[~known]).all()


def test_many_queries_are_searched_in_groups_with_the_same_result():
    rng = np.random.default_rng(1)
    vectors, queries = rng.choice(ENTRIES, (500, 6)), rng.choice(ENTRIES, (600, 6))
    best = search_exactly(cut(vectors, None, [100, 200]), queries, 7, block_rows=64)
    assert np.array_equal(best.rows, brute_force(vectors, queries, 7))


@pytest.mark.parametrize("n", [20_000, 80_000])
def test_the_memory_does_not_grow_with_the_number_of_vectors(n: int):
    vectors = np.zeros((n, 16), np.float16)
    vectors[:, 0] = np.linspace(-1, 1, n)
    queries = np.eye(1, 16, dtype=np.float32)
    tracemalloc.start()
    best = search_exactly(cut(vectors, None, [5_000] * (n // 5_000)), queries, 5, block_rows=1_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(best.rows[0], np.argsort(-vectors[:, 0].astype(np.float32), kind="stable")[:5])
    assert peak < 500_000
