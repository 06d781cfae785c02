"""Is one model better than another on the same queries? Paired bootstrap, McNemar's test, and what the set can show.

Both models answer the same queries, so most of what makes one resample harder than another cancels in the difference.
All is by the draws of `mwactl.evaluate.bootstrap`: Δ is the contestant's metric less the baseline's, in points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

from mwactl.evaluate.bootstrap import LEVEL, Numbers, Sample, percentile_interval
from mwactl.evaluate.queries import Indices, QueryRanks

POWER = 0.8
_ROUNDING = 1e-9
"""Points. An RSUM adds six divisions: what cancels exactly comes out as 1e-13, which is neither better nor worse."""


@dataclass(frozen=True)
class Difference:
    """One metric of one contestant against the baseline."""

    baseline: float
    """The baseline's metric."""
    contestant: float
    """The contestant's."""
    difference: float
    """Contestant less baseline."""
    interval: tuple[float, float] | None
    """Percentile interval of the difference at `LEVEL`; None for a single picture."""
    p: float
    """Two-sided; `p_value` says how."""
    p_holm: float
    """The same, corrected for the number of contestants (Holm 1979): what to read where several are compared."""
    smallest_difference: float | None
    """The smallest true difference that a test of this size would find with a probability of `POWER`, two-sided at
    5 %: (1.96 + 0.84) · standard error of the difference. None where no resample differs: then nobody can say."""


@dataclass(frozen=True)
class McNemar:
    """Queries that only one of two models answers at rank 1. Exact binomial test (McNemar 1947)."""

    only_baseline: int
    """Queries that only the baseline answers."""
    only_contestant: int
    """Queries that only the contestant answers."""
    p: float
    """Two-sided. Queries are taken to be independent, which captions of one picture are not: there it is too small."""


def differences(sample: Sample) -> list[dict[str, Difference]]:
    """Of each contestant but the first, which is the baseline, the difference of each metric."""
    draws = sample.draws[:, 1:] - sample.draws[:, :1]  # [r, c - 1, m]
    draws[np.abs(draws) < _ROUNDING] = 0.0
    p = np.array([
        [p_value(draws[:, i, at], int(sample.changed[:, i + 1, at].sum())) for at in range(draws.shape[2])]
        for i in range(draws.shape[1])
    ])  # fmt: skip
    p_holm = np.stack([holm(column) for column in p.T], axis=1)  # [c - 1, m]
    low, high = percentile_interval(draws)
    spread = draws.std(axis=0, ddof=1)
    smallest = (norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER)) * spread
    single = len(sample.changed) < 2

    def difference(i: int, at: int) -> Difference:
        baseline, contestant = float(sample.found[0, at]), float(sample.found[i + 1, at])
        return Difference(
            baseline=baseline,
            contestant=contestant,
            difference=contestant - baseline,
            interval=None if single else (float(low[i, at]), float(high[i, at])),
            p=float(p[i, at]),
            p_holm=float(p_holm[i, at]),
            smallest_difference=float(smallest[i, at]) if spread[i, at] > 0 else None,
        )

    return [{name: difference(i, at) for at, name in enumerate(sample.names)} for i in range(draws.shape[1])]


def p_value(draws: Numbers, changed: int) -> float:
    """Two-sided p of the differences [r] of resamples.

    2 · (1 + resamples on the rarer side of zero, those at zero counted on both) / (1 + r), at most 1: below 5 %
    where the 95 % percentile interval leaves out zero. Never below 2^(1 - changed), which is what a test of signs says
    where `changed` pictures differ and all in one direction: a bootstrap of very few pictures is too sure of itself.
    """
    rarer = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return min(1.0, max(2 * (1 + rarer) / (1 + len(draws)), 2.0 ** (1 - changed)))


def holm(p: Numbers) -> Numbers:
    """Holm's step-down correction of p values [k]: rejecting below a level errs in any of them at most that often."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, stepped)
    return corrected


def mcnemar(baseline: Indices, contestant: Indices) -> McNemar:
    """McNemar's exact test at rank 1 of two lists of ranks [n] of the same queries."""
    only_baseline = int(np.count_nonzero((baseline == 1) & (contestant != 1)))
    only_contestant = int(np.count_nonzero((baseline != 1) & (contestant == 1)))
    discordant = only_baseline + only_contestant
    p = float(binomtest(only_contestant, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_baseline, only_contestant, p)


def rank_one_tests(baseline: QueryRanks, contestant: QueryRanks) -> dict[str, McNemar]:
    """McNemar's test of both directions."""
    return {
        "i2t.R@1": mcnemar(baseline.image_to_text, contestant.image_to_text),
        "t2i.R@1": mcnemar(baseline.text_to_image, contestant.text_to_image),
    }
