"""The symmetric contrastive loss (BEiT-3's and CLIP's) that knows which pairs are no negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, picture_ids: Tensor, caption_ids: Tensor) -> Tensor:
    """The mean of image-to-text and text-to-image cross-entropy over a batch of pairs.

    A caption of the same picture, and an identical caption, is right for the query although it is not its own pair;
    such candidates are left out of the softmax instead of being pushed away.

    Args:
        image: Unit-length picture embeddings, [b, e]; row i and row i of `text` are a pair.
        text: Unit-length caption embeddings, [b, e].
        scale: The factor on cosine similarities (already exponentiated), shape [].
        picture_ids: [b]; equal ids are the same picture.
        caption_ids: [b]; equal ids are the same words.

    Returns:
        The loss, shape [], fp32.
    """
    logits = scale.float() * (image.float() @ text.float().T)  # [b, e] @ [e, b] -> [b, b]
    same = (picture_ids[:, None] == picture_ids[None, :]) | (caption_ids[:, None] == caption_ids[None, :])
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
