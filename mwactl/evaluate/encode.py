"""Embeddings of a split: each picture and each caption is encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mwactl.backbone.contract import ImageTransform, unit_rows
from mwactl.backbone.precision import Precision, autocast
from mwactl.data.captioned import CaptionedImages
from mwactl.data.loader import Pictures, Tokenizer, picture_batches
from mwactl.progress import Reporter, Silent, track


class DualEncoder(Protocol):
    """What can be evaluated: a backbone, with or without an adapter."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e]."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """[b, s] -> [b, e]."""


@dataclass(frozen=True)
class Embeddings:
    """Unit-length embeddings of a split, fp32, in the split's order.

    Args:
        images: [i, e].
        texts: [t, e].
    """

    images: NDArray[np.float32]
    texts: NDArray[np.float32]


@torch.inference_mode()
def encode_split(
    model: DualEncoder,
    dataset: CaptionedImages,
    *,
    transform: ImageTransform,
    pictures: Pictures | None = None,
    tokenize: Tokenizer,
    batch_size: int = 256,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Embeddings:
    """Encode every picture and every caption of a split once; `pictures` gives them where not their files do.

    The model must be in evaluation mode. Captions are encoded in order of length: those of a batch are then about
    equally long, and a tower computes little or nothing for their padding. The result is in the split's order.
    """
    device = device or torch.device("cpu")
    reporter = reporter or Silent()

    def encode(tower: Callable[[Tensor], Tensor], batch: Tensor) -> NDArray[np.float32]:
        with autocast(device, precision):
            embedding = tower(batch.to(device, non_blocking=True))
        return unit_rows(embedding.float()).cpu().numpy()

    batches = picture_batches(
        dataset,
        transform=transform,
        pictures=pictures,
        batch_size=batch_size,
        workers=workers,
        pin=device.type == "cuda",
    )
    images = [
        encode(model.encode_image, pixels)
        for pixels in track(batches, reporter, "pictures", len(dataset.images), size=len)
    ]
    order = sorted(range(len(dataset.captions)), key=lambda index: len(dataset.captions[index]))
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    texts = [
        encode(model.encode_text, tokenize([dataset.captions[index] for index in chunk]))
        for chunk in track(chunks, reporter, "captions", len(order), size=len)
    ]
    back = np.argsort(order)
    return Embeddings(images=np.concatenate(images), texts=np.concatenate(texts)[back])
