"""Sequences of different lengths without padding: every real token is one row of a [t, d] tensor.

Linear maps, norms and adapter modules act on one token at a time and need no batch axis. Only attention looks across
tokens, and it goes run by run, all sequences of one length at a time: nothing is computed on padding, no mask exists,
and pictures are simply a single run.

A sequence may have several streams (a picture's tokens and its caption's), each packed in a tensor of its own;
attention sees them joined, in the order given.

Shape notation: b sequences, s padded length, t tokens in all, r sequences of a run, n tokens of one of them, h heads,
c channels of a head, d = h·c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Run:
    """Neighbouring sequences of the same length.

    Args:
        count: How many sequences: r.
        lengths: Tokens of one of them, stream by stream; n is their sum.
        padding: Where a token is padding that nothing may attend to, [r, n]; None where there is none.
    """

    count: int
    lengths: tuple[int, ...]
    padding: Tensor | None = field(default=None, compare=False)


Stream = TypeVar("Stream", bound=str)
Runs = tuple[Run, ...]
Bias = Callable[[int], Tensor]


@dataclass(frozen=True)
class PackedTokens:
    """Token ids without padding, shortest sequence first.

    Args:
        ids: [t].
        positions: Each token's place in its own sequence, counted from 0: [t].
        order: Which of the given sequences is at each place of the packed order: [b].
        runs: The sequences by length.
    """

    ids: Tensor
    positions: Tensor
    order: Tensor
    runs: Runs

    def restore(self, rows: Tensor) -> Tensor:
        """One row a sequence, from the packed order back to the given one: [b, d] -> [b, d]."""
        back = torch.empty_like(self.order)
        # `shape[0]`, not `len`: a traced number stays any number.
        back[self.order] = torch.arange(self.order.shape[0], device=self.order.device)
        return rows[back]


def pack(tokens: Tensor, padding_id: int) -> PackedTokens:
    """Take the padding out of [b, s] token ids.

    On the meta device, where ids have no values, every sequence counts as full.

    Raises:
        ValueError: A sequence holds no token, or padding before its last token.
    """
    count, padded = tokens.shape
    lengths = [padded] * count if tokens.is_meta else _lengths(tokens, padding_id)
    order = sorted(range(count), key=lengths.__getitem__)
    runs, rows, positions = [], [], []
    for length, members in groupby(order, key=lengths.__getitem__):
        start = torch.tensor(list(members)) * padded
        place = torch.arange(length).expand(len(start), length)
        runs.append(Run(len(start), (length,)))
        rows.append((start[:, None] + place).flatten())  # [r, n] -> [r·n]
        positions.append(place.flatten())  # [r, n] -> [r·n]
    device = tokens.device
    return PackedTokens(
        ids=tokens.flatten()[torch.cat(rows).to(device)],  # [b, s] -> [t]
        positions=torch.cat(positions).to(device),
        order=torch.tensor(order, device=device),
        runs=tuple(runs),
    )


def with_padding(tokens: Tensor, padding_id: int) -> PackedTokens:
    """[b, s] token ids as they are: one run, whose padding is computed but never attended to.

    For graphs, which cannot look at ids to decide on shapes. What is pooled must not be padding.
    """
    count, length = tokens.shape
    places = torch.arange(length, device=tokens.device)
    return PackedTokens(
        ids=tokens.flatten(),  # [b, s] -> [t]
        positions=places.expand(count, length).flatten(),  # [b, s] -> [t]
        order=torch.arange(count, device=tokens.device),
        runs=(Run(count, (length,), padding=tokens == padding_id),),
    )


def _lengths(tokens: Tensor, padding_id: int) -> list[int]:
    real = tokens != padding_id
    lengths = real.sum(dim=1)
    # Left-aligned: where the mask is true up to the length, and nowhere else. One transfer for both answers.
    aligned = (real == (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])).all(dim=1)
    facts: list[list[int]] = torch.stack([lengths, aligned.long()]).tolist()
    for index, (length, left_aligned) in enumerate(zip(*facts, strict=True)):
        if length == 0 or not left_aligned:
            raise ValueError(f"sequence {index} " + ("is empty" if length == 0 else "has padding between its tokens"))
    return facts[0]


def first_rows(rows: Tensor, runs: Runs, stream: int = 0) -> Tensor:
    """The first token that every sequence has in a stream: [t, d] -> [b, d]."""
    return torch.cat([block[:, 0] for block in _blocks(rows, runs, stream)])


def asking(streams: dict[Stream, Tensor], runs: Runs, *, only_first: bool) -> tuple[dict[Stream, Tensor], Runs]:
    """The tokens that a layer computes, and how they are sequences: all, [t, …] a stream; or those that are pooled.

    With `only_first` (a last layer's, of a single stream), each sequence's first token alone: [b, …].
    """
    if not only_first:
        return streams, runs
    return {name: first_rows(rows, runs) for name, rows in streams.items()}, tuple(Run(run.count, (1,)) for run in runs)


def attend(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    runs: Runs,
    *,
    query_runs: Runs | None = None,
    bias: Bias | None = None,
) -> list[Tensor]:
    """Attention of each sequence to itself, all its streams joined.

    Args:
        queries: One tensor a stream, [t, h, c].
        keys: The same for keys.
        values: The same for values.
        runs: How the rows of `keys` and `values` are sequences.
        query_runs: How those of `queries` are, where only some tokens ask (the pooled one of a last layer).
        bias: What is added to the scores of the run with this index: [1, h, n of queries, n] (without the first axis,
            torch takes a slower kernel).

    Returns:
        One tensor a query stream, [t, d].
    """
    asking = query_runs or runs
    outputs: list[list[Tensor]] = [[] for _ in queries]
    joined = zip(_joined(queries, asking), _joined(keys, runs), _joined(values, runs), asking, runs, strict=True)
    for index, (query, key, value, query_run, run) in enumerate(joined):
        added = None if bias is None else bias(index).to(query.dtype)
        if run.padding is not None:
            added = _without_padding(added, run.padding, query.dtype)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=added)  # [r, h, n, c]
        parts = torch.split(
            mixed.transpose(1, 2).flatten(2), list(query_run.lengths), dim=1
        )  # [r, h, n, c] -> [r, n, d]
        for rows, part in zip(outputs, parts, strict=True):
            rows.append(part.flatten(0, 1))  # [r, n, d] -> [r·n, d]
    return [rows[0] if len(rows) == 1 else torch.cat(rows) for rows in outputs]


def _without_padding(added: Tensor | None, padding: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores, [1, h, n of queries, n], so that padding [r, n] weighs nothing: [r, ·, ·, n].

    The lowest finite number: minus infinity becomes NaN in some runtimes' half precision.
    """
    lowest = torch.finfo(dtype).min
    if added is None:
        added = torch.zeros((), dtype=dtype, device=padding.device)
    return torch.where(padding[:, None, None, :], lowest, added)


def _joined(streams: Sequence[Tensor], runs: Runs) -> Iterator[Tensor]:
    """Run by run, the streams' rows as sequences: one [t, h, c] a stream -> [r, h, n, c] a run."""
    split = [_blocks(rows, runs, stream) for stream, rows in enumerate(streams)]
    for blocks in zip(*split, strict=True):
        joined = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        yield joined.transpose(1, 2)  # [r, n, h, c] -> [r, h, n, c]


def _blocks(rows: Tensor, runs: Runs, stream: int) -> Iterator[Tensor]:
    """Run by run, one stream's rows as sequences: [t, …] -> [r, n, …]."""
    sizes = [run.count * run.lengths[stream] for run in runs]
    for run, block in zip(runs, torch.split(rows, sizes), strict=True):
        yield torch.unflatten(block, 0, (run.count, run.lengths[stream]))  # [r·n, …] -> [r, n, …]
