"""How much worse than the baseline a contestant may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mwactl.errors import UsageError
from mwactl.evaluate.metrics import METRICS
from mwactl.evaluate.paired import Difference

_ROUNDING = 1e-9  # points: 41.6 - 42.1 is a little less than -0.5


@dataclass(frozen=True)
class Floor:
    """The least difference that a contestant may have."""

    metric: str
    """One of `METRICS`."""
    least: float
    """Points: contestant less baseline, as it was found; its interval is not asked."""

    def holds(self, metrics: Mapping[str, Difference]) -> bool:
        """Whether a contestant has at least that."""
        return metrics[self.metric].difference >= self.least - _ROUNDING


def parse_floors(texts: Sequence[str]) -> tuple[Floor, ...]:
    """`t2i.R@1=-0.5`, `rsum=0` -> floors.

    Raises:
        UsageError: No such metric, or no such number.
    """
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Floor:
    metric, _, number = text.partition("=")
    try:
        least = float(number)
    except ValueError:
        least = math.nan
    if metric not in METRICS or not abs(least) <= 600:
        raise UsageError(
            f"--fail-below {text}: not a bound",
            why=f"METRIC=POINTS, the least difference to the baseline, with METRIC one of {', '.join(METRICS)}",
            fix="--fail-below t2i.R@1=-0.5   (may lose half a point)",
        )
    return Floor(metric, least)
