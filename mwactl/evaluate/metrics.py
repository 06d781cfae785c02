"""What a list of ranks says: recall at k, median and mean rank, RSUM."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mwactl.errors import UsageError
from mwactl.evaluate.queries import Indices

RECALL_AT = (1, 5, 10)
DIRECTIONS = {"i2t": "image_to_text", "t2i": "text_to_image"}
METRICS = (*(f"{way}.R@{k}" for way in DIRECTIONS for k in RECALL_AT), "rsum")
"""The names by which a metric is asked for, and what intervals and comparisons are given of."""


def direction_metrics(ranks: Indices) -> dict[str, float]:
    """The metrics of one direction, unrounded.

    Args:
        ranks: [n] 1-based ranks of the best own candidate of each query.

    Returns:
        "R@1", "R@5", "R@10" in percent (0 to 100): the share of queries with an own candidate among the first k;
        "median_rank" and "mean_rank".

    Raises:
        UsageError: There are no ranks, or one is below 1.
    """
    if ranks.ndim != 1 or ranks.size == 0 or ranks.min() < 1:
        raise UsageError("metrics need a list of at least one rank, each 1 or more")
    recall = {f"R@{k}": 100.0 * int(np.count_nonzero(ranks <= k)) / ranks.size for k in RECALL_AT}
    return recall | {"median_rank": float(np.median(ranks)), "mean_rank": float(np.mean(ranks))}


def rsum(image_to_text: Mapping[str, float], text_to_image: Mapping[str, float]) -> float:
    """The sum of the six recalls (0 to 600): R@1, R@5, R@10 of both directions."""
    return sum(direction[f"R@{k}"] for direction in (image_to_text, text_to_image) for k in RECALL_AT)
