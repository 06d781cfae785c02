"""The part of every batch that one of several processes loads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from mwactl.data.loader import PairBatch
from mwactl.train.distributed import Processes
from mwactl.train.sampling import Row

LoadBatches = Callable[[Iterator[list[Row]]], Iterator[PairBatch]]


def load_share(processes: Processes, load: LoadBatches, batches: Iterator[list[Row]]) -> Iterator[PairBatch]:
    """This process's share of every batch, in order.

    An empty share (the last batch of an epoch may have fewer pictures than there are processes) is a batch without
    rows, which the loader never hears of.
    """
    if processes.alone:
        yield from load(batches)
        return
    shares, known = itertools.tee(list(processes.share(rows)) for rows in batches)
    loaded = load(share for share in shares if share)
    for share in known:
        yield next(loaded) if share else _empty()


def _empty() -> PairBatch:
    ids = torch.zeros(0, dtype=torch.int64)
    return PairBatch(pixels=torch.zeros(0), tokens=ids[:, None], picture_ids=ids, caption_ids=ids)
