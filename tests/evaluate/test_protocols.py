"""The protocols: everything at once, and COCO's mean of five blocks of 1,000 images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mwactl.errors import MwactlError, UsageError
from mwactl.evaluate.bootstrap import resample
from mwactl.evaluate.metrics import direction_metrics
from mwactl.evaluate.protocols import FOLDS, evaluate_embeddings
from mwactl.evaluate.ranks import retrieval_ranks

METRICS = ("R@1", "R@5", "R@10", "median_rank", "mean_rank")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def coco_like():
    """5,000 images, one or more captions each, shuffled, near their images; the third block has 300 images twice."""
    rng = np.random.default_rng(1)
    images = unit(rng.standard_normal((5000, 16)))
    images[2000:2300] = images[2300:2600]
    owners = rng.permutation(np.concatenate([np.arange(5000), rng.integers(5000, size=1500)]))
    texts = unit(images[owners] + 0.4 * rng.standard_normal((6500, 16)))
    return images, texts, np.stack([owners, np.arange(6500)], axis=1)


@pytest.fixture(scope="module")
def in_five_blocks(coco_like):
    return evaluate_embeddings(*coco_like, protocol="coco-1k")


def test_full_reports_the_metrics_of_the_ranks():
    rng = np.random.default_rng(0)
    images, texts = unit(rng.standard_normal((40, 8))), unit(rng.standard_normal((100, 8)))
    pairs = np.stack([np.arange(100) % 40, np.arange(100)], axis=1)
    result = evaluate_embeddings(images, texts, pairs)
    ranks = retrieval_ranks(images, texts, pairs)
    np.testing.assert_array_equal(result.ranks.image_to_text, ranks.image_to_text)
    np.testing.assert_array_equal(result.ranks.text_to_image, ranks.text_to_image)
    np.testing.assert_array_equal(result.ranks.pictures, pairs[:, 0])
    assert (result.images, result.texts, result.protocol) == (40, 100, "full")
    assert result.image_to_text == direction_metrics(ranks.image_to_text)
    assert result.text_to_image == direction_metrics(ranks.text_to_image)
    assert result.rsum == sum(
        each[f"R@{k}"] for each in (result.image_to_text, result.text_to_image) for k in (1, 5, 10)
    )


def test_perfect_model_has_rsum_600():
    vectors = unit(np.random.default_rng(0).standard_normal((30, 64)))
    pairs = np.stack([np.repeat(np.arange(30), 3), np.arange(90)], axis=1)
    result = evaluate_embeddings(vectors, np.repeat(vectors, 3, axis=0), pairs)
    assert (result.rsum, result.tie_rate) == (600.0, 0.0)
    assert result.image_to_text["mean_rank"] == result.text_to_image["median_rank"] == 1.0


def test_collapsed_model_has_rsum_0_and_ties_everywhere():
    one = unit(np.random.default_rng(0).standard_normal((1, 64)))
    pairs = np.stack([np.repeat(np.arange(30), 3), np.arange(90)], axis=1)
    result = evaluate_embeddings(np.tile(one, (30, 1)), np.tile(one, (90, 1)), pairs)
    assert (result.rsum, result.tie_rate) == (0.0, 1.0)


def test_document_has_exactly_the_promised_keys(in_five_blocks):
    document = json.loads(json.dumps(in_five_blocks.as_dict()))
    assert set(document) == {"images", "texts", "image_to_text", "text_to_image", "rsum", "protocol", "tie_rate"}
    assert tuple(document["image_to_text"]) == tuple(document["text_to_image"]) == METRICS
    assert (document["images"], document["texts"], document["protocol"]) == (5000, 6500, "coco-1k")


def test_coco_1k_is_the_mean_of_five_blocks_cut_by_hand(coco_like, in_five_blocks):
    images, texts, pairs = coco_like
    blocks, tied = [], 0.0
    for fold in range(5):
        members = range(1000 * fold, 1000 * (fold + 1))
        captions = [text for owner, text in pairs.tolist() if owner in members]
        local = np.array([[pairs[text, 0] - members.start, row] for row, text in enumerate(captions)])
        result = evaluate_embeddings(images[members.start : members.stop], texts[captions], local)
        blocks.append(result)
        tied += result.tie_rate * (1000 + len(captions))
        queries = in_five_blocks.ranks.pictures // 1000 == fold
        np.testing.assert_array_equal(in_five_blocks.ranks.texts[queries], captions)
        np.testing.assert_array_equal(in_five_blocks.ranks.pictures[queries], pairs[captions, 0])
        np.testing.assert_array_equal(in_five_blocks.ranks.text_to_image[queries], result.ranks.text_to_image)
        np.testing.assert_array_equal(
            in_five_blocks.ranks.image_to_text[members.start : members.stop], result.ranks.image_to_text
        )
    for metric in METRICS:
        for direction in ("image_to_text", "text_to_image"):
            by_hand = np.mean([getattr(block, direction)[metric] for block in blocks])
            assert getattr(in_five_blocks, direction)[metric] == pytest.approx(by_hand)
    assert in_five_blocks.rsum == pytest.approx(np.mean([block.rsum for block in blocks]))
    assert in_five_blocks.tie_rate == pytest.approx(tied / 11_500)
    assert blocks[2].tie_rate > 0.3


def test_coco_1k_is_easier_than_full(coco_like, in_five_blocks):
    assert in_five_blocks.rsum > evaluate_embeddings(*coco_like, protocol="full").rsum + 10


def test_caption_shared_by_two_blocks_counts_in_both(coco_like):
    """It has one good and one bad image: it is a query in each, and both ranks enter the metrics."""
    images, texts, pairs = coco_like
    text = int(pairs[pairs[:, 0] < 1000][0, 1])
    far = 1000 + int(np.argmin(images[1000:2000] @ texts[text]))
    result = evaluate_embeddings(images, texts, np.concatenate([pairs, [[far, text]]]), protocol="coco-1k")
    assert result.texts == 6500
    assert result.ranks.pictures[result.ranks.texts == text].tolist() == [pairs[text, 0], far]
    assert result.ranks.text_to_image[result.ranks.texts == text][1] == 1000
    before = evaluate_embeddings(images, texts, pairs, protocol="coco-1k")
    of_block = before.ranks.text_to_image[before.ranks.pictures // 1000 == 1]
    in_block, block_mean = len(of_block), of_block.mean()
    change = (block_mean * in_block + 1000) / (in_block + 1) - block_mean
    difference = result.text_to_image["mean_rank"] - before.text_to_image["mean_rank"]
    assert difference == pytest.approx(change / FOLDS)


def test_a_caption_is_resampled_with_its_first_picture():
    images = unit(np.eye(3))
    pairs = np.array([[1, 0], [2, 0], [0, 1], [2, 2], [0, 2]])
    assert evaluate_embeddings(images, unit(np.eye(3)), pairs).ranks.pictures.tolist() == [1, 0, 0]


def test_resampled_metrics_are_the_reported_ones(coco_like, in_five_blocks):
    for result in (in_five_blocks, evaluate_embeddings(*coco_like)):
        found = resample([result.ranks], resamples=1).found[0]
        reported = [each[f"R@{k}"] for each in (result.image_to_text, result.text_to_image) for k in (1, 5, 10)]
        np.testing.assert_allclose(found, [*reported, result.rsum])


def test_coco_1k_needs_exactly_5000_images(coco_like):
    images, texts, pairs = coco_like
    with pytest.raises(UsageError, match="exactly 5000 images, and there are 4999"):
        evaluate_embeddings(images[:4999], texts, pairs, protocol="coco-1k")


def test_coco_1k_names_indices_of_the_whole_set(coco_like):
    images, texts, pairs = coco_like
    lonely = pairs.copy()
    lonely[lonely[:, 0] == 4321, 0] = 0
    with pytest.raises(UsageError, match="in image 4321"):
        evaluate_embeddings(images, texts, lonely, protocol="coco-1k")
    broken = images.copy()
    broken[[3, 4000], 0] = np.nan
    with pytest.raises(MwactlError, match="2 of 5000 image embeddings contain NaN"):
        evaluate_embeddings(broken, texts, pairs, protocol="coco-1k")


def test_unknown_protocol_names_the_known_ones():
    with pytest.raises(UsageError, match="choose one of: full, coco-1k"):
        evaluate_embeddings(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), np.eye(2, dtype=int), "1k")
