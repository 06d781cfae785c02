"""The symmetric contrastive loss (BEiT-3's and CLIP's) that knows which pairs are no negatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

#: Logits that are held at once (64 MiB in fp32): a batch of more than 4,096 pairs is worked off in blocks of rows.
_LARGEST_LOGITS = 2**24


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    picture_ids: Tensor,
    caption_ids: Tensor,
    owners: Tensor | None = None,
    *,
    hardness: float = 0.0,
) -> Tensor:
    """The mean of image-to-text and text-to-image cross-entropy over a batch of pairs.

    A caption of the same picture, and an identical caption, is right for the query although it is not its own pair;
    such candidates are left out of the softmax instead of being pushed away.

    Args:
        image: Unit-length picture embeddings, [p, e].
        text: Unit-length caption embeddings, [c, e].
        scale: The factor on cosine similarities (already exponentiated), shape [].
        picture_ids: [p]; equal ids are the same picture.
        caption_ids: [c]; equal ids are the same words.
        owners: [c], the row of `image` that a row of `text` belongs to; None: the row of the same number (p = c).
        hardness: As of `multi_caption_loss`.

    Returns:
        The loss, shape [], fp32.
    """
    if owners is not None:
        return multi_caption_loss(image, text, scale, picture_ids, caption_ids, owners, hardness=hardness)
    if hardness or len(image) * len(text) > _LARGEST_LOGITS:
        own = torch.arange(len(text), device=text.device)
        return multi_caption_loss(image, text, scale, picture_ids, caption_ids, own, hardness=hardness)
    logits = scale.float() * (image.float() @ text.float().T)  # [b, e] @ [e, b] -> [b, b]
    same = (picture_ids[:, None] == picture_ids[None, :]) | (caption_ids[:, None] == caption_ids[None, :])
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def multi_caption_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    picture_ids: Tensor,
    caption_ids: Tensor,
    owners: Tensor,
    *,
    hardness: float = 0.0,
    block: int | None = None,
) -> Tensor:
    """The same loss for pictures with several captions each, in memory for some rows of logits at a time.

    With s(i, t) the scaled similarity, a caption t is *right* for picture i if some caption of i has t's words, or if
    t's own picture is i or has the bytes of i; every other caption is a negative of i, and i a negative of t. Then

    * text-to-image: for each caption t of picture i, `-log(exp s(i, t) / (exp s(i, t) + Σ exp s(j, t)))` over the
      negative pictures j of t; the mean over all captions;
    * image-to-text: for each picture i, the mean over its own captions t of
      `-log(exp s(i, t) / (exp s(i, t) + Σ exp s(i, u)))` over the negative captions u of i: its other captions do not
      compete with t; the mean over all pictures;
    * the loss is the mean of the two. Where each picture has one caption it is `contrastive_loss`.

    With a hardness β a negative j counts w(j) times in its sum; w(j) is proportional to `exp(β s(j))`, and 1 on average
    over the negatives of that query (Robinson et al., 2021, arXiv:2010.04592). No gradient flows through the weights.

    Args:
        image: Unit-length picture embeddings, [p, e].
        text: Unit-length caption embeddings, [c, e].
        scale: The factor on cosine similarities (already exponentiated), shape [].
        picture_ids: [p]; equal ids are the same picture.
        caption_ids: [c]; equal ids are the same words.
        owners: [c], the row of `image` that a row of `text` belongs to; every picture has at least one.
        hardness: β; 0: every negative counts once.
        block: Rows of logits held at once; None: as many as make up 64 MiB. The backward pass computes them again.

    Returns:
        The loss, shape [], fp32.
    """
    image, text, scale = image.float(), text.float(), scale.float()
    block = block or rows_at_once(image, text)
    pictures, captions = right_pairs(picture_ids, caption_ids, owners, block)
    own = scale * (image[owners] * text).sum(dim=-1)  # [c, e] -> [c]
    of_images = log_sum_of_negatives(image, text, scale, pictures, captions, block, hardness)  # [p]
    of_texts = log_sum_of_negatives(text, image, scale, captions, pictures, block, hardness)  # [c]
    # -log(exp(own) / (exp(own) + exp(negatives))) = softplus(negatives - own); without negatives it is 0.
    share = 1 / (len(image) * torch.bincount(owners, minlength=len(image)))  # [p]
    image_to_text = (share[owners] * F.softplus(of_images[owners] - own)).sum()
    text_to_image = F.softplus(of_texts - own).mean()
    return (image_to_text + text_to_image) / 2


def rows_at_once(image: Tensor, text: Tensor) -> int:
    """How many rows of logits of [p, e] and [c, e] are held at once."""
    return max(1, _LARGEST_LOGITS // max(len(image), len(text)))


def right_pairs(picture_ids: Tensor, caption_ids: Tensor, owners: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Every (picture, caption) of the batch that is right: two index vectors of the same length.

    Few are, so a list of them is small where a mask [p, c] would not be.
    """
    picture_of = picture_ids[owners]  # [c]
    pictures, captions = [], []
    for start in range(0, len(owners), block):
        rows = slice(start, start + block)
        alike = caption_ids[rows, None] == caption_ids[None, :]  # [block, c]
        alike |= picture_of[rows, None] == picture_of[None, :]
        row, other = alike.nonzero(as_tuple=True)
        captions.append(row + start)
        pictures.append(owners[other])
    return torch.cat(pictures), torch.cat(captions)


def log_sum_of_negatives(
    queries: Tensor,
    candidates: Tensor,
    scale: Tensor,
    right_query: Tensor,
    right_candidate: Tensor,
    block: int,
    hardness: float = 0.0,
) -> Tensor:
    """log Σ w · exp(scale · similarity) over each query's negatives: [q, e], [n, e] -> [q]; -inf where it has none."""

    def of(start: int, queries: Tensor, candidates: Tensor, scale: Tensor) -> Tensor:
        logits = scale * (queries[start : start + block] @ candidates.T)  # [block, e] @ [e, n] -> [block, n]
        here = (right_query >= start) & (right_query < start + block)
        right = torch.zeros_like(logits, dtype=torch.bool)
        right[right_query[here] - start, right_candidate[here]] = True
        logits = logits.masked_fill(right, float("-inf"))
        return (logits + _log_weights(logits.detach(), hardness) if hardness else logits).logsumexp(dim=1)

    return by_blocks(of, len(queries), block, queries, candidates, scale)


def _log_weights(logits: Tensor, hardness: float) -> Tensor:
    """log w, [block, n]: w is proportional to exp(hardness · logit), and 1 on average over a row's finite logits."""
    count = logits.isfinite().sum(dim=1, keepdim=True)  # [block, 1]
    weights = hardness * logits
    # A row without negatives has no weights, and -inf minus -inf would be none either.
    return (weights - weights.logsumexp(dim=1, keepdim=True)).nan_to_num(0.0, neginf=0.0) + count.clamp(min=1).log()


def by_blocks(of: Callable[..., Tensor], rows: int, block: int, *tensors: Tensor) -> Tensor:
    """`of(start, *tensors)` for every block of rows, [rows]; the backward pass computes all but a single one again."""
    if block >= rows:
        return of(0, *tensors)
    blocks = [
        checkpoint(of, start, *tensors, use_reentrant=False, preserve_rng_state=False)
        for start in range(0, rows, block)
    ]
    return torch.cat(blocks)
