"""At which rank each query finds its own: the one computation below every retrieval number.

A rank is 1 + the number of non-own candidates that score at least as much as the best own one. Ties therefore count
against the model, and one that gives everything the same embedding is last everywhere, not first.

Scores are fp32 dot products, one strip of queries against all candidates at a time, so memory stays flat. Two things
need care, because a matrix product may round the same dot product differently at another place of the result:

* the own score is read from the strip it is compared with, and own pairs are masked: nothing competes with itself;
* candidates with identical embeddings get one score: the column of the first is copied to the others. (OpenBLAS, below
  numpy, rounds identical columns differently; MKL, below torch on x86, does not for 4 rows or more. Hence torch, and
  hence strips that are never that thin: with it the ranks don't depend on the strip's height either.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from mwactl.errors import MwactlError, UsageError
from mwactl.evaluate.queries import Indices

Embeddings: TypeAlias = npt.NDArray[np.float32]

BLOCK_BYTES = 48 * 2**20  # above 32 MiB glibc maps the strip and gives it back after each use
FEWEST_ROWS = 16
NORM_TOLERANCE = 0.01  # bf16 embeddings are within 0.002 of a unit vector


@dataclass(frozen=True)
class Ranks:
    """The ranks of both directions, 1-based and pessimistic in ties."""

    image_to_text: Indices
    """[n_images] rank of the best own caption of each image; its other own captions don't count against it."""
    text_to_image: Indices
    """[n_texts] rank of the best own image of each caption."""
    ties: float
    """Share (0 to 1) of the queries of both directions whose best own score equals a non-own candidate's."""


def retrieval_ranks(
    image_embeddings: Embeddings, text_embeddings: Embeddings, pairs: Indices, *, block_bytes: int = BLOCK_BYTES
) -> Ranks:
    """Rank every image's captions among all captions, and every caption's images among all images.

    Args:
        image_embeddings: [n_images, e] float32, rows L2-normalised.
        text_embeddings: [n_texts, e] float32, rows L2-normalised.
        pairs: [p, 2] integers, (image index, text index); many-to-many; a pair listed twice counts once.
        block_bytes: Size of one strip of scores; the extra memory is about 1.5 times that (2.5 times where identical
            embeddings abound). A strip has at least 16 rows, whatever this says.

    Raises:
        UsageError: Wrong shape or dtype, rows that are not unit vectors, indices out of range, an image without a
            caption or a caption without an image.
        MwactlError: NaN or infinity in the embeddings.
    """
    images = checked_embeddings(image_embeddings, "image")
    texts = checked_embeddings(text_embeddings, "text")
    if images.shape[1] != texts.shape[1]:
        raise UsageError(
            "image and text embeddings have different widths",
            why=f"{images.shape[1]} (image) and {texts.shape[1]} (text)",
            fix="encode both with the same model",
        )
    own = checked_pairs(pairs, len(images), len(texts))
    if block_bytes < 1:
        raise UsageError(f"block_bytes is {block_bytes}", fix="give a positive number of bytes")
    with _full_float32():
        image_to_text, image_ties = _ranks_one_way(images, texts, own, block_bytes)
        text_to_image, text_ties = _ranks_one_way(texts, images, own[:, ::-1], block_bytes)
    return Ranks(image_to_text, text_to_image, (image_ties + text_ties) / (len(images) + len(texts)))


def checked_embeddings(embeddings: Embeddings, kind: str) -> Embeddings:
    """The [n, e] float32 unit vectors of `kind` (image or text), copied only if not C-contiguous and writable.

    Raises:
        UsageError: Wrong shape or dtype, or rows that are not unit vectors.
        MwactlError: NaN or infinity.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise UsageError(
            f"the {kind} embeddings have shape {list(embeddings.shape)}", why="[n, e] is needed, not empty"
        )
    if embeddings.dtype != np.float32:
        raise UsageError(f"the {kind} embeddings are {embeddings.dtype}", fix="convert with .astype(numpy.float32)")
    rows = len(embeddings)
    if broken := rows - int(np.isfinite(embeddings).all(axis=1).sum()):
        raise MwactlError(
            f"{broken} of {rows} {kind} embeddings contain NaN or infinity",
            why="no rank can be computed from them; the weights diverged, or half precision overflowed",
            fix="encode again in float32; if that does not help, train again with a smaller learning rate",
        )
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    if stray := int((np.abs(norms - 1) > NORM_TOLERANCE).sum()):
        raise UsageError(
            f"{stray} of {rows} {kind} embeddings are not L2-normalised",
            why=f"their norms go from {norms.min():.3g} to {norms.max():.3g}",
            fix="divide each row by its norm",
        )
    return np.require(embeddings, requirements=["C", "W"])


def checked_pairs(pairs: Indices, images: int, texts: int) -> Indices:
    """The [p, 2] pairs (image index, text index) as int64, checked against the numbers of images and texts.

    Raises:
        UsageError: Wrong shape or dtype, an index out of range, an image without a caption or the reverse.
    """
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise UsageError(
            f"the pairs are {pairs.dtype} of shape {list(pairs.shape)}",
            why="[p, 2] integers are needed: (image index, text index)",
        )
    for column, (kind, count, lacks) in enumerate((("image", images, "caption"), ("caption", texts, "image"))):
        indices = pairs[:, column]
        if outside := int(((indices < 0) | (indices >= count)).sum()):
            raise UsageError(f"{outside} of {len(pairs)} pairs point outside the {count} {kind}s (0 to {count - 1})")
        missing = np.setdiff1d(np.arange(count), indices)
        if missing.size:
            raise UsageError(
                f"{missing.size} of {count} {kind}s have no {lacks}",
                where=f"{kind} {missing[0]}" + (" and others" if missing.size > 1 else ""),
                why="a query without an own candidate has no rank",
                fix=f"leave out every {kind} without {lacks} before encoding",
            )
    return pairs.astype(np.int64, copy=False)


def _ranks_one_way(queries: Embeddings, candidates: Embeddings, own: Indices, block_bytes: int) -> tuple[Indices, int]:
    """Ranks [q] of the queries [q, e] among the candidates [c, e], and how many queries have a tie.

    `own` [p, 2] holds (query index, candidate index).
    """
    own = own[np.argsort(own[:, 0], kind="stable")]
    first_own = np.searchsorted(own[:, 0], np.arange(len(queries) + 1))
    copies, originals = _identical(candidates)
    rows = max(FEWEST_ROWS, block_bytes // (4 * len(candidates)))
    # Strips of nearly equal height: a thin last one would be rounded differently from the others.
    strips = -(-len(queries) // rows)
    bounds = np.arange(strips + 1) * len(queries) // strips
    query_tensor, candidates_t = torch.from_numpy(queries), torch.from_numpy(candidates).T
    buffer = torch.empty(int(np.diff(bounds).max()), len(candidates), dtype=torch.float32, device="cpu")
    ranks = np.empty(len(queries), np.int64)
    ties = 0
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        strip = torch.mm(query_tensor[start:end], candidates_t, out=buffer[: end - start])  # [end - start, c]
        scores: npt.NDArray[Any] = strip.numpy()
        scores[:, copies] = scores[:, originals]
        mine = slice(first_own[start], first_own[end])
        at = (own[mine, 0] - start, own[mine, 1])
        best_own = np.maximum.reduceat(scores[at], first_own[start:end] - first_own[start])[:, None]  # [end - start, 1]
        scores[at] = -np.inf
        at_least = np.count_nonzero(scores >= best_own, axis=1)
        ranks[start:end] = 1 + at_least
        ties += int(np.count_nonzero(at_least > np.count_nonzero(scores > best_own, axis=1)))
    return ranks, ties


@contextmanager
def _full_float32() -> Iterator[None]:
    """Keep products in float32 on the CPU, though the process may allow bfloat16 in them ("medium", for training)."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:  # torch below 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    else:
        before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        if matmul is None:
            torch.set_float32_matmul_precision(before)
        else:
            matmul.fp32_precision = before


def _identical(embeddings: Embeddings) -> tuple[Indices, Indices]:
    """Indices of the rows that repeat an earlier row exactly, and of the first such row for each."""
    first: dict[bytes, int] = {}
    copies: list[int] = []
    originals: list[int] = []
    for index, row in enumerate(embeddings):
        # + 0.0 turns -0.0, which scores as 0.0 does, into 0.0.
        digest = hashlib.blake2b((row + np.float32(0)).tobytes(), digest_size=16).digest()
        original = first.setdefault(digest, index)
        if original != index:
            copies.append(index)
            originals.append(original)
    return np.array(copies, np.int64), np.array(originals, np.int64)
