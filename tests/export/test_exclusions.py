"""The search for what int8 must spare ends with as little as will do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mwactl.export.exclusions import Block, Spared, search

COSTS = st.lists(st.integers(0, 100), min_size=2, max_size=30)


def blocks_of(costs: list[int]) -> list[Block]:
    return [Block("image" if index % 2 else "text", f"layers.{index}") for index in range(len(costs))]


class Model:
    """Each block that is not spared costs its own; what was asked is remembered."""

    def __init__(self, costs: list[int]) -> None:
        self.cost = dict(zip(blocks_of(costs), costs, strict=True))
        self.attempts: list[Spared] = []
        self.tried: list[int] = []
        self.ranked = 0

    def attempt(self, spared: Spared) -> int:
        self.attempts.append(spared)
        self.tried.append(sum(cost for block, cost in self.cost.items() if block not in spared))
        return self.tried[-1]

    def worst_first(self) -> list[Block]:
        self.ranked += 1
        return sorted(self.cost, key=self.cost.__getitem__, reverse=True)

    def search(self, allowed: int):
        return search(
            len(self.cost), attempt=self.attempt, passes=lambda cost: cost <= allowed, worst_first=self.worst_first
        )


@given(COSTS, st.integers(0, 3000))
def test_no_shorter_list_would_do(costs, allowed):
    model = Model(costs)
    found = model.search(allowed)
    fewest = next(count for count in range(len(costs) + 1) if sum(sorted(costs)[: len(costs) - count]) <= allowed)
    if fewest < len(costs):
        assert len(found.spared) == fewest
        assert found.tried == sum(costs) - sum(model.cost[block] for block in found.spared) <= allowed
    else:
        assert len(found.spared) == len(costs) - 1
        assert found.tried == min(model.tried) > allowed


@given(COSTS, st.integers(0, 3000))
def test_few_attempts_are_made_and_never_one_that_quantises_nothing(costs, allowed):
    model = Model(costs)
    model.search(allowed)
    assert len(model.attempts) <= 1 + len(costs).bit_length()
    assert all(len(spared) < len(costs) for spared in model.attempts)


def test_damage_is_measured_only_where_it_matters():
    model = Model([5, 5, 5])
    assert model.search(15).spared == ()
    assert (model.ranked, len(model.attempts)) == (0, 1)


def test_what_is_returned_has_passed_even_where_sparing_more_is_worse():
    """Sparing two passes, sparing three does not: whatever is found was measured."""
    results = {0: 9, 1: 9, 2: 1, 3: 9, 4: 1}
    blocks = blocks_of([1] * 5)
    found = search(
        5,
        attempt=lambda spared: results[len(spared)],
        passes=lambda result: result <= 1,
        worst_first=lambda: blocks,
    )
    assert found.tried == 1
    assert results[len(found.spared)] == 1
