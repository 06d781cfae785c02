"""The smallest list of blocks that int8 must spare, so that the exported model stays within its bounds.

First all blocks are quantised. Where that costs too much, each block is quantised alone and its damage measured; then
the most damaging blocks are spared, as few as will do, found by bisection (sparing one more block is taken to never
make the model worse; what is returned has been measured, whatever becomes of that).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mwactl.export.graph import TowerName


@dataclass(frozen=True)
class Block:
    """A block of one tower."""

    tower: TowerName
    name: str


Spared = frozenset[Block]
Tried = TypeVar("Tried")


@dataclass(frozen=True)
class Found(Generic[Tried]):
    """What a search ended with.

    Args:
        spared: The blocks that stay in fp32, the most damaging first.
        tried: What the attempt with these gave.
    """

    spared: tuple[Block, ...]
    tried: Tried


def search(
    count: int,
    *,
    attempt: Callable[[Spared], Tried],
    passes: Callable[[Tried], bool],
    worst_first: Callable[[], Sequence[Block]],
) -> Found[Tried]:
    """The first attempt that passes, with as few blocks spared as possible.

    Args:
        count: How many blocks there are.
        attempt: Quantise all but these, and measure.
        passes: Whether a measurement is within the bounds.
        worst_first: All blocks by their damage; asked for only where it matters.

    Returns:
        An attempt that passes; or, where sparing all but one block is not enough, that attempt, which does not.
    """
    everything = attempt(frozenset())
    if passes(everything):
        return Found((), everything)
    order = worst_first()
    passing, failing = None, Found((), everything)
    too_few, enough = 0, count  # sparing all is no quantisation, and is never attempted
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        tried = attempt(frozenset(order[:middle]))
        if passes(tried):
            enough, passing = middle, Found(tuple(order[:middle]), tried)
        else:
            too_few, failing = middle, Found(tuple(order[:middle]), tried)
    return passing or failing
