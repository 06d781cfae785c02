"""How far a recall would move on other pictures of the same kind: the bootstrap over pictures.

A resample draws as many pictures as there are, with replacement. A picture brings its own image-to-text query and the
text-to-image queries of all its captions: they stay together, and both directions see the same draw. **Only queries
are resampled.** The candidates that each query was ranked against stay the whole split, so no rank changes and no model
runs again. What is measured is the spread that comes from which queries were asked; not what a larger or harder pool
would do, nor training with another seed.

With a picture's hits added up, a resample is a vector of counts times a table, and all resamples are one matrix
product, done in blocks. Hits and counts are whole numbers, which float64 adds without rounding.

Shape notation: n pictures, c contestants, m metrics, r resamples. See Efron and Tibshirani, An Introduction to the
Bootstrap (1993), §13.3 (percentile interval), and Davison and Hinkley, Bootstrap Methods and their Application (1997),
§3.8 (clusters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mwactl.evaluate.metrics import DIRECTIONS, METRICS, RECALL_AT
from mwactl.evaluate.queries import QueryRanks

Numbers: TypeAlias = npt.NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0
_DRAWS_A_BLOCK = 2**20  # 8 MiB of drawn pictures, and as much of counts


@dataclass(frozen=True)
class Table:
    """What each picture adds to each recall."""

    hits: Numbers
    """[n, c, m] queries of the picture with an own candidate among the first k."""
    queries: Numbers
    """[n, m] queries of the picture, the same for all contestants."""


@dataclass(frozen=True)
class Sample:
    """Metrics as they were found and as the resamples have them."""

    names: tuple[str, ...]
    """[m] as in `METRICS`."""
    found: Numbers
    """[c, m]."""
    draws: Numbers
    """[r, c, m]."""
    changed: npt.NDArray[np.bool_]
    """[n, c, m] whether the picture has other hits with a contestant than with the first one."""


def hit_table(contestants: Sequence[QueryRanks], counted: npt.NDArray[np.bool_] | None = None) -> Table:
    """The table of contestants that were ranked on the same queries, for `METRICS` without the RSUM.

    Args:
        contestants: Their ranks.
        counted: [q] which caption queries are counted; None: all of them.
    """
    n, c = len(contestants[0].image_to_text), len(contestants)
    mine = slice(None) if counted is None else counted
    pictures = contestants[0].pictures[mine]
    hits = np.empty((n, c, 2, len(RECALL_AT)))
    for index, ranks in enumerate(contestants):
        found = ranks.text_to_image[mine]
        for at, k in enumerate(RECALL_AT):
            hits[:, index, 0, at] = ranks.image_to_text <= k
            hits[:, index, 1, at] = np.bincount(pictures[found <= k], minlength=n)
    asked = np.stack([np.ones(n), np.bincount(pictures, minlength=n)], axis=1)  # [n, 2]
    return Table(hits.reshape(n, c, -1), np.repeat(asked, len(RECALL_AT), axis=1))


def resample_recalls(table: Table, names: tuple[str, ...], resamples: int, rng: np.random.Generator) -> Sample:
    """Recalls in percent, of pictures drawn with replacement."""
    n, c, m = table.hits.shape
    columns = np.concatenate([table.hits.reshape(n, c * m), table.queries], axis=1)  # [n, c·m + m]
    sums = np.empty((resamples, c * m + m))
    rows = max(1, _DRAWS_A_BLOCK // n)
    for start in range(0, resamples, rows):
        block = sums[start : start + rows]
        drawn = rng.integers(n, size=(len(block), n))
        drawn += n * np.arange(len(block))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=len(block) * n).reshape(len(block), n)
        np.matmul(counts.astype(np.float64), columns, out=block)
    return Sample(
        names=names,
        found=_recalls(table.hits.sum(axis=0), table.queries.sum(axis=0)),
        draws=_recalls(sums[:, : c * m].reshape(-1, c, m), sums[:, None, c * m :]),
        changed=table.hits != table.hits[:, :1],
    )


def resample(contestants: Sequence[QueryRanks], *, resamples: int = RESAMPLES, seed: int = SEED) -> Sample:
    """All `METRICS` of contestants that were ranked on the same queries, with the same draws for all.

    Where the metrics are means over blocks of pictures (`QueryRanks.folds`), so they are here, and each block is drawn
    from by itself: its size is part of the protocol.
    """
    whole = hit_table(contestants)
    folds = contestants[0].folds
    tables = [
        Table(*halves) for halves in zip(np.split(whole.hits, folds), np.split(whole.queries, folds), strict=True)
    ]
    samples = [
        resample_recalls(table, METRICS[:-1], resamples, np.random.default_rng([seed, fold]))
        for fold, table in enumerate(tables)
    ]
    changed = np.concatenate([sample.changed for sample in samples])
    return Sample(
        names=METRICS,
        found=_with_rsum(np.mean([sample.found for sample in samples], axis=0)),
        draws=_with_rsum(np.mean([sample.draws for sample in samples], axis=0)),
        changed=np.concatenate([changed, changed.any(axis=2, keepdims=True)], axis=2),
    )


def percentile_interval(draws: Numbers, level: float = LEVEL) -> tuple[Numbers, Numbers]:
    """Lower and upper ends [...] of the percentile intervals of draws [r, ...]."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def metric_intervals(ranks: QueryRanks, *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Any] | None:
    """The intervals of one evaluation, for JSON; None for a single picture, of which every resample is itself.

    Returns:
        "level", "resamples", "seed"; under "image_to_text" and "text_to_image" of each recall, and under "rsum",
        `[low, high]` in the metric's unit.
    """
    if len(ranks.image_to_text) < 2:
        return None
    low, high = percentile_interval(resample([ranks], resamples=resamples, seed=seed).draws[:, 0])  # [m] each
    ends = {name: [float(low[at]), float(high[at])] for at, name in enumerate(METRICS)}
    document: dict[str, Any] = {"level": LEVEL, "resamples": resamples, "seed": seed, "rsum": ends["rsum"]}
    for short, direction in DIRECTIONS.items():
        document[direction] = {f"R@{k}": ends[f"{short}.R@{k}"] for k in RECALL_AT}
    return document


def _recalls(hits: Numbers, queries: Numbers) -> Numbers:
    # A picture whose captions are all counted with other pictures asks nothing; a draw of only such finds nothing.
    recalls: Numbers = 100.0 * hits / np.maximum(queries, 1)
    return recalls


def _with_rsum(recalls: Numbers) -> Numbers:
    """[..., m] -> [..., m + 1]."""
    return np.concatenate([recalls, recalls.sum(axis=-1, keepdims=True)], axis=-1)
