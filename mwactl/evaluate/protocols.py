"""From embeddings to the numbers of a retrieval protocol.

* `full`: every image against every caption, at once. This is "COCO 5k" on COCO's 5,000 test images and "Flickr30k 1k"
  on Flickr30k's 1,000; the result states images × texts, so the name needs not.
* `coco-1k`: five disjoint blocks of 1,000 consecutive images, each with all of its own captions and nothing else;
  every metric is the mean of the five. (Older work keeps only the first five captions of an image; we keep all.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mwactl.errors import UsageError
from mwactl.evaluate.metrics import direction_metrics, rsum
from mwactl.evaluate.queries import Indices, QueryRanks
from mwactl.evaluate.ranks import Embeddings, Ranks, checked_embeddings, checked_pairs, retrieval_ranks

FOLDS = 5
FOLD_IMAGES = 1000


@dataclass(frozen=True)
class RetrievalResult:
    """The numbers of one evaluation and what they were computed on."""

    images: int
    texts: int
    protocol: str
    image_to_text: dict[str, float]
    """"R@1", "R@5", "R@10" in percent, "median_rank", "mean_rank"; so for the other direction."""
    text_to_image: dict[str, float]
    rsum: float
    tie_rate: float
    """Share (0 to 1) of queries whose best own score equals a non-own candidate's."""
    ranks: QueryRanks
    """The rank of every query, in the order of the embeddings; under `coco-1k` ranks within the block, block by block:
    a caption with images in several blocks is a query in each."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers without the raw ranks, for JSON."""
        return {
            "images": self.images,
            "texts": self.texts,
            "image_to_text": dict(self.image_to_text),
            "text_to_image": dict(self.text_to_image),
            "rsum": self.rsum,
            "protocol": self.protocol,
            "tie_rate": self.tie_rate,
        }


def evaluate_embeddings(
    image_embeddings: Embeddings, text_embeddings: Embeddings, pairs: Indices, protocol: str = "full"
) -> RetrievalResult:
    """Image-to-text and text-to-image retrieval metrics of L2-normalised embeddings.

    Args:
        image_embeddings: [n_images, e] float32, in the order of the split's file.
        text_embeddings: [n_texts, e] float32.
        pairs: [p, 2] integers, (image index, text index); many-to-many.
        protocol: One of `PROTOCOLS`.

    Raises:
        UsageError: An unknown protocol, one that does not fit the number of images, or what `retrieval_ranks` refuses.
        MwactlError: NaN or infinity in the embeddings.
    """
    check_protocol(protocol, len(image_embeddings))
    return PROTOCOLS[protocol](image_embeddings, text_embeddings, pairs)


def check_protocol(protocol: str, images: int | None = None) -> None:
    """Refuse a protocol before the work of encoding is done; without a number of images, for its name alone.

    Raises:
        UsageError: An unknown protocol, or one that does not fit the number of images.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"there is no protocol {protocol!r}", fix=f"choose one of: {', '.join(PROTOCOLS)}")
    if protocol == "coco-1k" and images not in (None, FOLDS * FOLD_IMAGES):
        raise UsageError(
            f"the protocol coco-1k needs exactly {FOLDS * FOLD_IMAGES} images, and there are {images}",
            why=f"it is the mean over {FOLDS} blocks of {FOLD_IMAGES} consecutive images of COCO's test split",
            fix="use the protocol full",
        )


def _full(images: Embeddings, texts: Embeddings, pairs: Indices) -> RetrievalResult:
    pairs = checked_pairs(pairs, len(images), len(texts))
    fold = _Fold(retrieval_ranks(images, texts, pairs), np.arange(len(texts)), _first_pictures(pairs))
    return _result("full", len(texts), [fold])


def _coco_1k(images: Embeddings, texts: Embeddings, pairs: Indices) -> RetrievalResult:
    # Checked as a whole, before folds are cut: messages then count and name what the caller knows.
    images, texts = checked_embeddings(images, "image"), checked_embeddings(texts, "text")
    pairs = checked_pairs(pairs, len(images), len(texts))
    folds = []
    for start in range(0, len(images), FOLD_IMAGES):
        inside = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < start + FOLD_IMAGES)]
        fold_texts, text_index = np.unique(inside[:, 1], return_inverse=True)
        fold_pairs = np.stack([inside[:, 0] - start, text_index], axis=1)
        ranks = retrieval_ranks(images[start : start + FOLD_IMAGES], texts[fold_texts], fold_pairs)
        folds.append(_Fold(ranks, fold_texts, start + _first_pictures(fold_pairs)))
    return _result("coco-1k", len(texts), folds)


@dataclass(frozen=True)
class _Fold:
    """The ranks of a block, and of each of its captions which one it is and its first picture."""

    ranks: Ranks
    texts: Indices
    pictures: Indices


def _first_pictures(pairs: Indices) -> Indices:
    """[p, 2] (picture, caption) -> [n_texts], where every caption has a picture."""
    pictures = np.full(pairs[:, 1].max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(pictures, pairs[:, 1], pairs[:, 0])
    return pictures


def _result(protocol: str, texts: int, folds: Sequence[_Fold]) -> RetrievalResult:
    image_to_text = _mean([direction_metrics(fold.ranks.image_to_text) for fold in folds])
    text_to_image = _mean([direction_metrics(fold.ranks.text_to_image) for fold in folds])
    queries = QueryRanks(
        image_to_text=np.concatenate([fold.ranks.image_to_text for fold in folds]),
        text_to_image=np.concatenate([fold.ranks.text_to_image for fold in folds]),
        texts=np.concatenate([fold.texts for fold in folds]),
        pictures=np.concatenate([fold.pictures for fold in folds]),
        folds=len(folds),
    )
    counts = [fold.ranks.image_to_text.size + fold.ranks.text_to_image.size for fold in folds]
    return RetrievalResult(
        images=len(queries.image_to_text),
        texts=texts,
        protocol=protocol,
        image_to_text=image_to_text,
        text_to_image=text_to_image,
        rsum=rsum(image_to_text, text_to_image),
        tie_rate=float(np.average([fold.ranks.ties for fold in folds], weights=counts)),
        ranks=queries,
    )


def _mean(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in metrics) / len(metrics) for name in metrics[0]}


PROTOCOLS: dict[str, Callable[[Embeddings, Embeddings, Indices], RetrievalResult]] = {
    "full": _full,
    "coco-1k": _coco_1k,
}
