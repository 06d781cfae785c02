"""What an export may cost: bounds on lost recall and on changed neighbours, which decide whether it is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mwactl.errors import UsageError
from mwactl.evaluate.metrics import METRICS
from mwactl.export.parity import Parity

TOP10 = "top10"


@dataclass(frozen=True)
class Bound:
    """One bound.

    Args:
        metric: One of `METRICS`, or `top10`.
        value: Of a metric, how many points may be lost against torch; of `top10`, the agreement needed, in percent.
    """

    metric: str
    value: float

    def found(self, parity: Parity) -> float | None:
        """The points that were lost (a gain is negative), or the agreement; None: of too few pictures to say.

        Raises:
            ValueError: Recall was not measured.
        """
        if self.metric == TOP10:
            return parity.top10
        if parity.metrics is None:
            raise ValueError("recall was not measured")
        ours, theirs = parity.metrics[self.metric]
        return ours - theirs

    def holds(self, parity: Parity) -> bool:
        """Whether what was measured is within the bound."""
        found = self.found(parity) or 0.0  # what nobody could measure is agreement on nothing
        return found >= self.value if self.metric == TOP10 else found <= self.value

    def describe(self, parity: Parity) -> str:
        """What was found and what is allowed, in one line."""
        found = self.found(parity)
        if found is None:
            return f"top-10 agreement not measured (bound {self.value:g} %)"
        if self.metric == TOP10:
            return f"top-10 agreement {found:.1f} % (bound {self.value:g} %)"
        return f"{self.metric} {-found:+.2f} (bound {-self.value:+.2f})"

    def as_dict(self) -> dict[str, float | str]:
        """JSON values."""
        return {"metric": self.metric, "bound": self.value}


#: What int8 must keep where nothing else is asked for: nine of the ten pictures that each caption finds.
DEFAULT_INT8_GATE = (Bound(TOP10, 90.0),)


def parse_gates(texts: Sequence[str]) -> tuple[Bound, ...]:
    """`t2i.R@1=0.5`, `rsum=3`, `top10=95` -> bounds.

    Raises:
        UsageError: No such metric, or no such number.
    """
    return tuple(_parse(text) for text in texts)


def need_recall(bounds: Sequence[Bound]) -> bool:
    """Whether a bound is on recall, which only a data set of one's own can tell."""
    return any(bound.metric != TOP10 for bound in bounds)


def need_neighbours(bounds: Sequence[Bound]) -> bool:
    """Whether a bound is on agreement, which only many pictures can tell; `top10=0` asks for none."""
    return any(bound.metric == TOP10 and bound.value > 0 for bound in bounds)


def _parse(text: str) -> Bound:
    metric, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    limit = 100.0 if metric == TOP10 else 600.0
    if metric not in (*METRICS, TOP10) or not 0 <= value <= limit:
        raise UsageError(
            f"--gate {text}: not a bound",
            why=f"METRIC=POINTS that may be lost, with METRIC one of {', '.join(METRICS)}; or top10=PERCENT to keep",
            fix="--gate t2i.R@1=0.5 --data DATA",
        )
    return Bound(metric, value)
