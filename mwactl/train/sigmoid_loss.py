"""The pairwise sigmoid loss (Zhai et al., 2023, arXiv:2303.15343) that knows which pairs are no negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mwactl.train.loss import by_blocks, log_sum_of_negatives, right_pairs, rows_at_once


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    picture_ids: Tensor,
    caption_ids: Tensor,
    owners: Tensor | None = None,
    *,
    block: int | None = None,
) -> Tensor:
    """Every pair of a picture and a caption is a yes-or-no question of its own.

    `-log σ(s(i, t) + b)` for each caption t and its own picture i, and `-log σ(-s(i, t) - b)` for every negative pair;
    their sum, divided by the number of captions. Pairs that are right without being a row's own (the same picture, the
    same words) are left out, as in `contrastive_loss`.

    Args:
        image: Unit-length picture embeddings, [p, e].
        text: Unit-length caption embeddings, [c, e].
        scale: The factor on cosine similarities (already exponentiated), shape [].
        bias: b, shape [].
        picture_ids: [p]; equal ids are the same picture.
        caption_ids: [c]; equal ids are the same words.
        owners: [c], the row of `image` that a row of `text` belongs to; None: the row of the same number (p = c).
        block: Rows of logits held at once; None: as many as make up 64 MiB.

    Returns:
        The loss, shape [], fp32.
    """
    image, text, scale, bias = image.float(), text.float(), scale.float(), bias.float()
    owners = torch.arange(len(text), device=text.device) if owners is None else owners
    block = block or rows_at_once(image, text)
    pictures, captions = right_pairs(picture_ids, caption_ids, owners, block)

    def of_negatives(start: int, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        logits = scale * (text[start : start + block] @ image.T) + bias  # [block, e] @ [e, p] -> [block, p]
        here = (captions >= start) & (captions < start + block)
        negative = torch.ones_like(logits, dtype=torch.bool)
        negative[captions[here] - start, pictures[here]] = False
        return (F.softplus(logits) * negative).sum(dim=1)

    negatives = by_blocks(of_negatives, len(text), block, image, text, scale, bias)  # [c]
    own = scale * (image[owners] * text).sum(dim=-1) + bias  # [c, e] -> [c]
    return (negatives + F.softplus(-own)).mean()


@torch.no_grad()
def first_bias(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    picture_ids: Tensor,
    caption_ids: Tensor,
    owners: Tensor | None = None,
) -> Tensor:
    """Where a bias starts that a backbone lacks, shape []: where the sigmoid of a pair is, on average, its softmax.

    With N the sum of exp(s) over a caption's negatives, softmax gives its pair `σ(s - log N)`; so the bias is the mean
    of `-log N`. A fixed start is far off for a backbone whose temperature is another, and a bias moves slowly.
    """
    image, text, scale = image.float(), text.float(), scale.float()
    owners = torch.arange(len(text), device=text.device) if owners is None else owners
    block = rows_at_once(image, text)
    pictures, captions = right_pairs(picture_ids, caption_ids, owners, block)
    sums = log_sum_of_negatives(text, image, scale, captions, pictures, block)  # [c]
    return -sums[sums.isfinite()].mean().nan_to_num(0.0)
