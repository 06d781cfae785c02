"""Bounds: what may be lost, spelt and judged."""

from __future__ import annotations

import pytest

from mwactl.errors import UsageError
from mwactl.evaluate.metrics import METRICS
from mwactl.export.gate import DEFAULT_INT8_GATE, Bound, need_neighbours, need_recall, parse_gates
from mwactl.export.parity import Parity, TowerParity

NEAR = TowerParity(rows=3, max_abs=0.0, min_cosine=1.0, mean_cosine=1.0)


def parity(top10: float | None = 100.0, **metrics: tuple[float, float]) -> Parity:
    named = {name.replace("_", "."): value for name, value in metrics.items()}
    return Parity(NEAR, NEAR, top10, {metric: named.get(metric, (50.0, 50.0)) for metric in METRICS})


def test_bounds_are_read_as_they_are_written():
    assert parse_gates(["t2i.R@1=0.5", "rsum=3", "top10=95.5"]) == (
        Bound("t2i.R@1", 0.5), Bound("rsum", 3.0), Bound("top10", 95.5),
    )  # fmt: skip
    assert parse_gates([]) == ()


@pytest.mark.parametrize(
    "text", ["t2i.R@1", "t2i.R@1=", "t2i.R@2=1", "R@1=1", "t2i.R@1=-1", "top10=101", "top10=nan", "rsum=inf", "=1", ""]
)
def test_what_is_no_bound_is_a_mistake(text):
    with pytest.raises(UsageError, match="not a bound") as error:
        parse_gates([text])
    assert "t2i.R@1" in str(error.value)


def test_agreement_that_was_not_measured_is_none_at_all():
    assert not Bound("top10", 0.1).holds(parity(None))
    assert Bound("top10", 0.0).holds(parity(None))
    assert Bound("top10", 90.0).describe(parity(None)) == "top-10 agreement not measured (bound 90 %)"


def test_only_a_bound_that_asks_for_agreement_needs_neighbours():
    assert need_neighbours(DEFAULT_INT8_GATE)
    assert not need_neighbours(parse_gates(["top10=0", "rsum=1"]))


def test_every_metric_can_be_bounded():
    assert len(parse_gates([f"{metric}=1" for metric in METRICS])) == len(METRICS) == 7


@pytest.mark.parametrize(
    ("torch", "exported", "holds"), [(60.0, 59.5, True), (60.0, 59.4, False), (60.0, 61.0, True), (60.0, 60.0, True)]
)
def test_points_may_be_lost_up_to_the_bound_and_gained_without(torch, exported, holds):
    bound = Bound("rsum", 0.5)
    assert bound.holds(parity(rsum=(torch, exported))) is holds


def test_agreement_is_a_bound_from_below():
    bound = Bound("top10", 90.0)
    assert bound.holds(parity(90.0))
    assert not bound.holds(parity(89.99))


def test_it_says_what_was_found_and_what_is_allowed():
    assert Bound("rsum", 0.5).describe(parity(rsum=(60.0, 59.7))) == "rsum -0.30 (bound -0.50)"
    assert Bound("rsum", 0.5).describe(parity(rsum=(60.0, 60.7))) == "rsum +0.70 (bound -0.50)"
    assert Bound("top10", 90.0).describe(parity(87.25)) == "top-10 agreement 87.2 % (bound 90 %)"


def test_recall_that_was_not_measured_cannot_be_judged():
    with pytest.raises(ValueError, match="not measured"):
        Bound("rsum", 1.0).holds(Parity(NEAR, NEAR, 100.0, None))


def test_only_recall_needs_data():
    assert need_recall([Bound("top10", 90.0), Bound("rsum", 1.0)])
    assert not need_recall(DEFAULT_INT8_GATE)
