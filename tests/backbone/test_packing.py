"""Sequences without padding: what goes in comes out, and attention is that of each sequence alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mwactl.backbone.packing import PackedTokens, Run, asking, attend, first_rows, pack, with_padding

PAD = 9


def padded(*sequences: list[int], length: int = 6) -> Tensor:
    return torch.tensor([sequence + [PAD] * (length - len(sequence)) for sequence in sequences])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sequences_of(packed: PackedTokens) -> list[list[int]]:
    """The packed sequences, in the given order."""
    lengths = [run.lengths[0] for run in packed.runs for _ in range(run.count)]
    found: dict[int, list[int]] = {}
    for index, ids in zip(packed.order.tolist(), torch.split(packed.ids, lengths), strict=True):
        found[index] = ids.tolist()
    return [found[index] for index in range(len(found))]


def test_padding_is_taken_out_shortest_first_and_neighbours_of_one_length_are_a_run() -> None:
    packed = pack(padded([1, 2, 3], [4], [5, 6, 7], [8, 0]), PAD)
    assert packed.runs == (Run(1, (1,)), Run(1, (2,)), Run(2, (3,)))
    assert packed.ids.tolist() == [4, 8, 0, 1, 2, 3, 5, 6, 7]
    assert packed.positions.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2]
    assert packed.order.tolist() == [1, 3, 0, 2]


def test_every_sequence_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 13, (40,), generator=generator).tolist()
    given = [torch.randint(0, PAD, (length,), generator=generator).tolist() for length in lengths]
    packed = pack(padded(*given, length=14), PAD)
    assert sequences_of(packed) == given
    assert len(packed.ids) == sum(lengths)
    assert [run.lengths for run in packed.runs] == sorted({(length,) for length in lengths})


def test_rows_return_to_the_given_order() -> None:
    packed = pack(padded([1, 2, 3], [4], [5, 6, 7], [8, 0]), PAD)
    rows = first_rows(packed.ids[:, None].float(), packed.runs)
    assert rows.flatten().tolist() == [4, 8, 1, 5]
    assert packed.restore(rows).flatten().tolist() == [1, 4, 5, 8]


def test_what_asks_is_every_token_or_the_first_of_each_sequence() -> None:
    runs = (Run(2, (2,)), Run(1, (3,)))
    streams = {"text": torch.arange(7.0)[:, None]}
    assert asking(streams, runs, only_first=False) == (streams, runs)
    first, first_runs = asking(streams, runs, only_first=True)
    assert first["text"].flatten().tolist() == [0, 2, 4]
    assert first_runs == (Run(2, (1,)), Run(1, (1,)))


def test_more_padding_changes_nothing() -> None:
    short, long = (pack(padded([1, 2], [3], length=length), PAD) for length in (2, 30))
    assert short.runs == long.runs
    for name in ("ids", "positions", "order"):
        assert torch.equal(getattr(short, name), getattr(long, name))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 2, PAD], [PAD, PAD, PAD]], "sequence 1 is empty"),
        ([[1, PAD, 2]], "sequence 0 has padding between its tokens"),
        ([[1, 2, 3], [PAD, 1, 2]], "sequence 1 has padding between its tokens"),
    ],
)
def test_an_empty_sequence_and_padding_before_a_token_are_refused(tokens: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(torch.tensor(tokens), PAD)


def test_on_the_meta_device_every_sequence_counts_as_full() -> None:
    packed = pack(torch.empty(3, 5, dtype=torch.int64, device="meta"), PAD)
    assert packed.runs == (Run(3, (5,)),)
    assert packed.ids.is_meta
    assert packed.ids.shape == packed.positions.shape == (15,)
    assert packed.restore(torch.empty(3, 4, device="meta")).shape == (3, 4)


def by_hand(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """One sequence, [n, h, c] -> [n, h·c]."""
    scores = torch.einsum("qhc,khc->hqk", query, key) / math.sqrt(query.shape[-1]) + bias
    return torch.einsum("hqk,khc->qhc", scores.softmax(-1), value).flatten(1)


RUNS = (Run(2, (1,)), Run(1, (3,)), Run(3, (4,)))


def test_each_sequence_attends_to_itself_alone() -> None:
    query, key, value = (random(17, 2, 4, seed=seed) for seed in range(3))
    (mixed,) = attend([query], [key], [value], RUNS)
    lengths = [1, 1, 3, 4, 4, 4]
    streams = (torch.split(rows, lengths) for rows in (query, key, value))
    expected = [by_hand(q, k, v) for q, k, v in zip(*streams, strict=True)]
    torch.testing.assert_close(mixed, torch.cat(expected), rtol=0, atol=1e-6)


def test_streams_of_a_sequence_see_each_other_and_come_back_apart() -> None:
    runs = (Run(2, (2, 1)), Run(1, (2, 3)))
    image = [random(6, 2, 4, seed=seed) for seed in range(3)]
    text = [random(5, 2, 4, seed=seed) for seed in range(3, 6)]
    queries, keys, values = ([first, second] for first, second in zip(image, text, strict=True))
    of_image, of_text = attend(queries, keys, values, runs)
    pictures, words = [], []
    for at, (start, length) in enumerate([(0, 1), (1, 1), (2, 3)]):
        joined = [
            torch.cat([rows[2 * at : 2 * at + 2], others[start : start + length]])
            for rows, others in zip(image, text, strict=True)
        ]
        mixed = by_hand(*joined)
        pictures.append(mixed[:2])
        words.append(mixed[2:])
    torch.testing.assert_close(of_image, torch.cat(pictures), rtol=0, atol=1e-6)
    torch.testing.assert_close(of_text, torch.cat(words), rtol=0, atol=1e-6)


def test_only_some_tokens_may_ask() -> None:
    query, key, value = (random(17, 2, 4, seed=seed) for seed in range(3))
    (every,) = attend([query], [key], [value], RUNS)
    asking = first_rows(query, RUNS)
    assert asking.shape == (6, 2, 4)
    asking_runs = tuple(Run(run.count, (1,)) for run in RUNS)
    (mixed,) = attend([asking], [key], [value], RUNS, query_runs=asking_runs)
    torch.testing.assert_close(mixed, first_rows(every, RUNS), rtol=0, atol=1e-6)


def test_the_bias_of_a_run_is_added_to_its_scores() -> None:
    query, key, value = (random(17, 2, 4, seed=seed) for seed in range(3))

    def bias(run: int) -> Tensor:
        length = sum(RUNS[run].lengths)
        return random(2, length, length, seed=length)

    (mixed,) = attend([query], [key], [value], RUNS, bias=bias)
    lengths = [1, 1, 3, 4, 4, 4]
    streams = (torch.split(rows, lengths) for rows in (query, key, value))
    expected = [by_hand(q, k, v, random(2, len(q), len(q), seed=len(q))) for q, k, v in zip(*streams, strict=True)]
    torch.testing.assert_close(mixed, torch.cat(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("of_bias", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_bias_is_taken_to_the_queries_precision(dtype: torch.dtype, of_bias: torch.dtype) -> None:
    rows, bias = random(4, 1, 8).to(dtype), torch.ones(1, 4, 4, dtype=of_bias)
    (mixed,) = attend([rows], [rows], [rows], (Run(1, (4,)),), bias=lambda run: bias)
    assert mixed.dtype == dtype


def test_first_rows_are_those_of_the_stream_that_is_asked_for() -> None:
    runs = (Run(2, (2, 1)), Run(1, (2, 3)))
    assert first_rows(torch.arange(6.0)[:, None], runs, 0).flatten().tolist() == [0, 2, 4]
    assert first_rows(torch.arange(5.0)[:, None], runs, 1).flatten().tolist() == [0, 1, 2]


def test_gradients_reach_every_real_token_and_its_own_sequence_alone() -> None:
    rows = random(17, 2, 4).requires_grad_()
    (mixed,) = attend([rows], [rows], [rows], RUNS)
    mixed[2:5].sum().backward()
    assert rows.grad is not None
    reached = rows.grad.flatten(1).abs().sum(dim=1) > 0
    assert reached.tolist() == [2 <= index < 5 for index in range(17)]


# -- with their padding: for graphs ----------------------------------------------------------------------------------


def test_sequences_with_their_padding_are_one_run_in_the_given_order() -> None:
    tokens = padded([1, 2, 3], [4], length=4)
    packed = with_padding(tokens, PAD)
    assert packed.runs == (Run(2, (4,)),)
    assert packed.ids.tolist() == tokens.flatten().tolist()
    assert packed.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert packed.order.tolist() == [0, 1]
    assert packed.runs[0].padding is not None
    assert packed.runs[0].padding.tolist() == [[False, False, False, True], [False, True, True, True]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_nothing_attends_to_padding_whatever_it_holds(dtype: torch.dtype, biased: bool) -> None:
    tokens = padded([1, 2, 3], [4], [5, 6], length=5)
    runs = with_padding(tokens, PAD).runs
    query, key, value = (random(15, 2, 4, seed=seed).to(dtype) for seed in range(3))
    table = random(1, 2, 5, 5, seed=3)
    bias = (lambda _: table) if biased else None
    (mixed,) = attend([query], [key], [value], runs, bias=bias)
    is_padding = (tokens == PAD).flatten()
    key[is_padding], value[is_padding] = 50.0, 50.0
    (again,) = attend([query], [key], [value], runs, bias=bias)
    assert torch.equal(mixed[~is_padding], again[~is_padding])
    for index, length in enumerate([3, 1, 2]):
        rows = slice(5 * index, 5 * index + length)
        added = table[0, :, :length, :length] if biased else 0.0
        expected = by_hand(query[rows].float(), key[rows].float(), value[rows].float(), added)
        tolerance = 1e-6 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(mixed[rows].float(), expected, rtol=0, atol=tolerance)


def test_a_sequence_of_padding_alone_stays_a_number() -> None:
    runs = with_padding(padded([], [1, 2], length=3), PAD).runs
    query, key, value = (random(6, 2, 4, seed=seed) for seed in range(3))
    (mixed,) = attend([query], [key], [value], runs)
    assert mixed.isfinite().all()
