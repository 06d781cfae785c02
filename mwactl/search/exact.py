"""Exact search: every vector is compared, in float32, a block at a time, in fixed memory.

Shape notation: n vectors, q queries, c a block of vectors, k hits a query, e the shared space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mwactl.search.half import widen
from mwactl.search.part import Vectors

BLOCK_ROWS = 8192
_MOST_QUERIES = 256
"""Queries at a time: with a block's scores, 8 MB."""

NO_ROW = -1
Blocks = Iterator[tuple[int, Vectors, NDArray[np.bool_] | None]]
"""Vectors [c, e] that follow each other, the number of the first, and which of them may be found (None: all)."""


@dataclass(frozen=True)
class Best:
    """The best rows of each query, best first; equal scores in the order of the rows."""

    scores: NDArray[np.float32]
    """[q, k]; -inf where there are fewer than k."""

    rows: NDArray[np.int64]
    """[q, k]; -1 there."""

    @staticmethod
    def nothing(queries: int, k: int) -> Best:
        """No row so far."""
        return Best(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), NO_ROW, np.int64))


def search_exactly(blocks: Blocks, queries: NDArray[np.float32], k: int, *, block_rows: int = BLOCK_ROWS) -> Best:
    """The k rows with the largest inner product, of all that the blocks hold.

    Args:
        blocks: The vectors; larger blocks are cut.
        queries: [q, e].
        k: Hits a query.
        block_rows: c at most.
    """
    best = Best.nothing(len(queries), k)
    for first, vectors, mask in blocks:
        for start in range(0, len(vectors), block_rows):
            block = vectors[start : start + block_rows]
            rows = np.arange(first + start, first + start + len(block))
            if mask is not None:
                chosen = mask[start : start + block_rows]
                if not chosen.any():
                    continue
                if not chosen.all():
                    block, rows = block[chosen], rows[chosen]
            best = _with_block(best, queries, widen(block), rows)
    return best


def _with_block(best: Best, queries: NDArray[np.float32], block: NDArray[np.float32], rows: NDArray[np.int64]) -> Best:
    """The best so far, with the rows of one more block; these come after all rows before."""
    merged = [
        _merged(
            Best(best.scores[start : start + _MOST_QUERIES], best.rows[start : start + _MOST_QUERIES]),
            queries[start : start + _MOST_QUERIES] @ block.T,  # [q, e] @ [e, c] -> [q, c]
            rows,
        )
        for start in range(0, len(queries), _MOST_QUERIES)
    ]
    if len(merged) == 1:
        return merged[0]
    return Best(np.concatenate([part.scores for part in merged]), np.concatenate([part.rows for part in merged]))


def _merged(best: Best, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> Best:
    """The best of what was and of scores [q, c].

    A row of a later block only enters if it is better than the k-th so far: of equals, the earlier row wins. After
    the first blocks few are, so the sorting below has little to do.
    """
    k, c = best.scores.shape[1], len(rows)
    enters = scores > best.scores[:, -1:]  # [q, c]
    if k < c and np.count_nonzero(enters) > 4 * enters.shape[0] * k:
        # All that equal the block's own k-th enter: which of them are kept is decided by their order.
        enters &= scores >= np.partition(scores, c - k, axis=1)[:, c - k, None]
    query, column = np.nonzero(enters)
    if not len(query):
        return best
    touched, counts = np.unique(query, return_counts=True)
    result = Best(best.scores.copy(), best.rows.copy())
    start = 0
    for index, count in zip(touched, counts, strict=True):
        columns = column[start : start + count]
        start += count
        candidates = np.concatenate([best.scores[index], scores[index, columns]])
        numbers = np.concatenate([best.rows[index], rows[columns]])
        # Stable, and the numbers ascend among equals: what was best comes before what enters.
        order = np.argsort(-candidates, kind="stable")[:k]
        result.scores[index], result.rows[index] = candidates[order], numbers[order]
    return result
