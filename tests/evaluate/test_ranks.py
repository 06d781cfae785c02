"""Ranks against an independent dense count; ties, duplicates, blocks and what is refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from mwactl.errors import ExitCode, MwactlError, UsageError
from mwactl.evaluate.ranks import Ranks, retrieval_ranks


def unit(rng, count, width=48):
    vectors = rng.standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def signs(rng, count, width=64):
    """Unit vectors of ±1/8: every dot product is exact in float32 in any order of summation, and many are equal."""
    return rng.choice(np.array([-0.125, 0.125], np.float32), (count, width))


def random_pairs(rng, images, texts):
    """Many-to-many, uneven, shuffled: every index at least once, and some captions with two or three images."""
    caption_owners = rng.integers(images, size=texts)
    caption_owners[:images] = rng.permutation(images)
    extra = np.stack([rng.integers(images, size=texts // 4), rng.integers(texts, size=texts // 4)], axis=1)
    pairs = np.concatenate([np.stack([caption_owners, np.arange(texts)], axis=1), extra])
    return pairs[rng.permutation(len(pairs))]


def decided_by_last_bits(rng):
    """49 images and 300 captions that differ from each other by about one rounding error."""
    one = unit(rng, 1, 512)
    texts = np.tile(one, (300, 1)) * (1 + 1e-7 * rng.standard_normal((300, 512)).astype(np.float32))
    return unit(rng, 49, 512), texts, random_pairs(rng, 49, 300)


def dense_ranks(images, texts, pairs):
    """Ranks and tie share by counting one query at a time, in float64."""
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    own = {(int(image), int(text)) for image, text in pairs}
    ties = 0
    directions = []
    for one_way, is_own in (
        (scores, lambda query, candidate: (query, candidate) in own),
        (scores.T, lambda query, candidate: (candidate, query) in own),
    ):
        ranks = []
        for query, row in enumerate(one_way):
            mine = [score for candidate, score in enumerate(row) if is_own(query, candidate)]
            others = [score for candidate, score in enumerate(row) if not is_own(query, candidate)]
            ranks.append(1 + sum(score >= max(mine) for score in others))
            ties += any(score == max(mine) for score in others)
        directions.append(ranks)
    return Ranks(np.array(directions[0]), np.array(directions[1]), ties / (len(images) + len(texts)))


def assert_same(found, expected):
    np.testing.assert_array_equal(found.image_to_text, expected.image_to_text)
    np.testing.assert_array_equal(found.text_to_image, expected.text_to_image)
    assert found.ties == pytest.approx(expected.ties)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_dense_count_where_ties_abound(seed):
    rng = np.random.default_rng(seed)
    images, texts = signs(rng, 70), signs(rng, 190)
    pairs = random_pairs(rng, 70, 190)
    expected = dense_ranks(images, texts, pairs)
    assert expected.ties > 0.5
    assert_same(retrieval_ranks(images, texts, pairs), expected)


@pytest.mark.parametrize("rounded_to_bf16", [False, True])
def test_ranks_equal_a_dense_count_on_random_embeddings(rounded_to_bf16):
    rng = np.random.default_rng(7)
    images, texts = unit(rng, 60), unit(rng, 150)
    if rounded_to_bf16:
        images, texts = ((each.view(np.uint32) & 0xFFFF0000).view(np.float32) for each in (images, texts))
    pairs = random_pairs(rng, 60, 150)
    assert_same(retrieval_ranks(images, texts, pairs), dense_ranks(images, texts, pairs))


def test_more_images_than_texts():
    rng = np.random.default_rng(3)
    images, texts = signs(rng, 90), signs(rng, 20)
    pairs = random_pairs(rng, 20, 90)[:, ::-1]
    assert_same(retrieval_ranks(images, texts, pairs), dense_ranks(images, texts, pairs))


@pytest.mark.parametrize("kind", [signs, unit])
def test_block_size_does_not_change_ranks(kind):
    rng = np.random.default_rng(11)
    images, texts = kind(rng, 130), kind(rng, 331)
    pairs = random_pairs(rng, 130, 331)
    whole = retrieval_ranks(images, texts, pairs, block_bytes=2**30)
    for block_bytes in (1, 4 * 331 * 17, 4 * 331 * 43, 4 * 331 * 129):
        assert_same(retrieval_ranks(images, texts, pairs, block_bytes=block_bytes), whole)


def test_own_pairs_do_not_compete_with_each_other():
    """All five captions of an image score alike: the image finds its own at once, and nothing ties."""
    images = np.eye(4, dtype=np.float32)
    texts = np.repeat(images, 5, axis=0)
    pairs = np.stack([np.repeat(np.arange(4), 5), np.arange(20)], axis=1)
    ranks = retrieval_ranks(images, texts, pairs)
    assert ranks.image_to_text.tolist() == [1] * 4
    assert ranks.text_to_image.tolist() == [1] * 20
    assert ranks.ties == 0


def test_image_counts_its_best_caption_only():
    """Own captions at cosine 0.6 and 0 to the image, a foreign one at 0.8: rank 2, though 0 < 0.8 as well."""
    images = np.array([[1, 0], [0, 1]], np.float32)
    texts = np.array([[0.6, 0.8], [0, 1], [0.8, 0.6]], np.float32)
    ranks = retrieval_ranks(images, texts, np.array([[0, 0], [0, 1], [1, 2]]))
    assert ranks.image_to_text.tolist() == [2, 3]
    assert ranks.text_to_image.tolist() == [2, 2, 2]


def test_collapsed_model_is_last_everywhere():
    images = np.tile(unit(np.random.default_rng(0), 1), (40, 1))
    texts = np.tile(images[0], (200, 1))
    pairs = np.stack([np.repeat(np.arange(40), 5), np.arange(200)], axis=1)
    ranks = retrieval_ranks(images, texts, pairs)
    assert set(ranks.image_to_text) == {196}
    assert set(ranks.text_to_image) == {40}
    assert ranks.ties == 1


@pytest.mark.parametrize("queries", [1, 3, 5, 33])
@pytest.mark.parametrize("width", [33, 768])
def test_identical_candidates_tie_at_every_position(queries, width):
    """The own caption's embedding repeated over all columns: however a kernel rounds each, all tie for all queries."""
    rng = np.random.default_rng(queries)
    images = unit(rng, queries, width)
    texts = np.tile(unit(rng, 1, width), (517, 1))
    pairs = np.stack([rng.integers(queries, size=517), np.arange(517)], axis=1)
    pairs[:queries, 0] = np.arange(queries)
    ranks = retrieval_ranks(images, texts, pairs)
    own = np.bincount(pairs[:, 0])
    np.testing.assert_array_equal(ranks.image_to_text, 1 + 517 - own)


@pytest.mark.parametrize("position", [0, 1, 15, 16, 63, 250, 515, 516])
def test_one_duplicate_costs_one_rank_wherever_it_is(position):
    rng = np.random.default_rng(position)
    images = unit(rng, 40, 96)
    texts = unit(rng, 517, 96)
    own = np.array([column for column in range(517) if column != position])[:40]
    texts[own] = images
    texts[position] = texts[own[20]]
    pairs = np.concatenate([np.stack([np.arange(40), own], axis=1), [[39, position]]])
    rest = np.setdiff1d(np.arange(517), pairs[:, 1])
    pairs = np.concatenate([pairs, np.stack([rest % 40, rest], axis=1)])
    ranks = retrieval_ranks(images, texts, pairs)
    assert ranks.image_to_text.tolist() == [1] * 20 + [2] + [1] * 19


@pytest.mark.parametrize("width", [33, 64, 100, 768])
def test_minus_zero_and_zero_are_the_same_embedding(width):
    """The last caption differs in the sign of a zero only. Kernels round the last column differently in thin strips."""
    images = unit(np.random.default_rng(width), 2, width)
    text = images[:1] + 0.5 * unit(np.random.default_rng(1), 1, width)
    text[0, 7] = 0
    texts = np.tile(text / np.linalg.norm(text), (517, 1))
    texts[-1, 7] *= -1
    pairs = np.stack([(np.arange(517) < 516).astype(int), np.arange(517)], axis=1)
    ranks = retrieval_ranks(images, texts, pairs)
    assert ranks.image_to_text.tolist() == [517, 2]


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="only MKL rounds alike in strips of any height")
def test_last_bits_do_not_depend_on_the_block_size():
    images, texts, pairs = decided_by_last_bits(np.random.default_rng(6))
    whole = retrieval_ranks(images, texts, pairs, block_bytes=2**30)
    assert 0 < whole.ties < 1
    for block_bytes in (1, 4 * 300 * 16, 4 * 300 * 24):
        assert_same(retrieval_ranks(images, texts, pairs, block_bytes=block_bytes), whole)


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_scores_are_float32_whatever_precision_the_process_asks_for(setting):
    """ "medium" hands the product to another kernel, in bfloat16 where the CPU can; the last bits alone decide here."""
    images, texts, pairs = decided_by_last_bits(np.random.default_rng(8))
    expected = retrieval_ranks(images, texts, pairs)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        assert_same(retrieval_ranks(images, texts, pairs), expected)
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_pair_listed_twice_counts_once():
    rng = np.random.default_rng(2)
    images, texts = signs(rng, 20), signs(rng, 50)
    pairs = random_pairs(rng, 20, 50)
    assert_same(retrieval_ranks(images, texts, np.concatenate([pairs, pairs])), retrieval_ranks(images, texts, pairs))


def test_read_only_and_strided_embeddings_are_accepted_and_inputs_are_left_alone():
    rng = np.random.default_rng(4)
    images, texts, pairs = signs(rng, 30), signs(rng, 60), random_pairs(rng, 30, 60)
    expected = retrieval_ranks(images, texts, pairs)
    frozen = images.copy()
    for array in (images, texts, pairs):
        array.setflags(write=False)
    strided = np.asfortranarray(texts)
    assert_same(retrieval_ranks(images, strided, pairs), expected)
    assert_same(retrieval_ranks(images[::-1][::-1], texts, pairs.astype(np.int32)), expected)
    np.testing.assert_array_equal(images, frozen)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_embeddings_are_counted_in_the_error(value):
    rng = np.random.default_rng(0)
    images, texts = unit(rng, 10), unit(rng, 10)
    texts[2, 5] = texts[7, 0] = texts[7, 1] = value
    pairs = np.stack([np.arange(10), np.arange(10)], axis=1)
    with pytest.raises(MwactlError, match="2 of 10 text embeddings contain NaN or infinity") as caught:
        retrieval_ranks(images, texts, pairs)
    assert caught.value.exit_code == ExitCode.FAILED
    assert caught.value.fix


def identity(count):
    return np.eye(count, dtype=np.float32)


@pytest.mark.parametrize(
    ("images", "texts", "pairs", "message"),
    [
        (identity(3), identity(3), [[0, 0], [1, 1]], "1 of 3 images have no caption; in image 2"),
        (identity(3), identity(3), [[0, 0], [1, 0], [2, 0]], "2 of 3 captions have no image; in caption 1 and others"),
        (identity(2), identity(2), [[0, 0], [1, 2]], "1 of 2 pairs point outside the 2 captions"),
        (identity(2), identity(2), [[0, 0], [-1, 1]], "1 of 2 pairs point outside the 2 images"),
        (identity(2), identity(2), [[0.0, 0.0], [1.0, 1.0]], "the pairs are float64"),
        (identity(2), identity(2), [0, 1], r"the pairs are int64 of shape \[2\]"),
        (identity(2), identity(2).astype(np.float16), [[0, 0], [1, 1]], "the text embeddings are float16"),
        (identity(2), identity(3), [[0, 0], [1, 1], [1, 2]], "different widths"),
        (identity(2)[0], identity(2), [[0, 0]], "the image embeddings have shape"),
        (identity(2)[:0], identity(2), [[0, 0]], "the image embeddings have shape"),
        (3 * identity(2), identity(2), [[0, 0], [1, 1]], "2 of 2 image embeddings are not L2-normalised"),
        (identity(2), np.zeros((2, 2), np.float32), [[0, 0], [1, 1]], "2 of 2 text embeddings are not L2-normalised"),
    ],
)
def test_unusable_input_is_refused_with_the_reason(images, texts, pairs, message):
    with pytest.raises(UsageError, match=message):
        retrieval_ranks(images, texts, np.array(pairs))


def test_block_of_no_bytes_is_refused():
    with pytest.raises(UsageError, match="block_bytes is 0"):
        retrieval_ranks(identity(2), identity(2), np.array([[0, 0], [1, 1]]), block_bytes=0)


def test_all_scores_are_never_held_at_once():
    """They would be 64 MB here; 500 MB for the 5,000 pictures and 25,000 captions of COCO's test split."""
    rng = np.random.default_rng(3)
    images, texts = unit(rng, 2_000, 8), unit(rng, 8_000, 8)
    pairs = np.stack([np.arange(8_000) % 2_000, np.arange(8_000)], axis=1)
    tracemalloc.start()
    retrieval_ranks(images, texts, pairs, block_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
