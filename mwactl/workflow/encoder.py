"""Pictures and captions to embeddings, whatever computes them: a registry entry with torch, or a bundle without.

Shape notation: n pictures or captions, e the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from mwactl.registry import Entry, Registry
from mwactl.runtime import is_bundle, open_picture
from mwactl.search import Encoder
from mwactl.workflow.bundle import open_bundle, picture_errors

if TYPE_CHECKING:
    from torch import Tensor

    from mwactl.adapter import AdaptedModel, MergedModel
    from mwactl.runtime.bundle import Picture

T = TypeVar("T")
Embeddings = NDArray[np.float32]


def open_encoder(
    name: str | None,
    *,
    device: str = "auto",
    registry: Registry | None = None,
    backbone_name: str | None = None,
    weights: str | None = None,
    download: bool = False,
) -> Encoder:
    """The encoder of a bundle's folder, which needs no torch, or of a registry reference.

    Args:
        name: A folder that `mwactl export` wrote, or a reference; None: the newest entry.
        device: `auto`, `cpu`, `cuda`; `cuda:N` for a reference, `tensorrt` for a bundle.
        registry: Where references lead; None: this user's.
        backbone_name: A reference's backbone now, where its folder has moved.
        weights: Its weights, where they have moved.
        download: Whether the network may be used for them.

    Raises:
        NotFoundError: No such entry, or its backbone is not here.
        VerificationError: Damaged bytes.
        IncompatibleError: The backbone is another, or its preprocessing cannot be identified.
        UsageError: No such device.
    """
    if name is not None and is_bundle(name):
        return open_bundle(name, device=device)
    from mwactl.workflow.load import load_model

    registry = registry or Registry.default()
    entry = registry.resolve(name)
    model = load_model(registry, entry, backbone_name=backbone_name, weights=weights, download=download)
    return TorchEncoder(model, entry, device)


class TorchEncoder:
    """An adapted or merged model of the registry, in fp32.

    Args:
        model: On the CPU, in evaluation mode.
        entry: What it is.
        device: Where it shall compute.

    Raises:
        UsageError: No such device.
        IncompatibleError: The backbone's plugin does not say how its input is prepared.
    """

    def __init__(self, model: AdaptedModel | MergedModel, entry: Entry, device: str = "auto") -> None:
        from mwactl.backbone.precision import choose_device

        self.model = model
        self.entry = entry
        self.identity = entry.digest
        self.preprocess_digest = model.backbone.portable().digest
        self.width = model.backbone.embedding_width
        self._device = choose_device(device)
        self._transform = model.backbone.image_transform()
        model.to(self._device).eval()

    def encode_images(self, images: Sequence[Picture], batch_size: int = 32) -> Embeddings:
        """Pictures (files, their bytes, or opened) -> [n, e], rows of length one.

        Raises:
            DataError: One cannot be read.
        """
        import torch

        def embed(batch: Sequence[Picture]) -> Tensor:
            with picture_errors():
                pixels = torch.stack([self._transform(open_picture(picture)) for picture in batch])
            return self.model.encode_image(pixels.to(self._device))

        return self._in_batches(embed, images, batch_size)

    def encode_texts(self, captions: Sequence[str], batch_size: int = 256) -> Embeddings:
        """Captions -> [n, e], rows of length one."""
        # In order of length, so that short captions are not computed at the length of a long neighbour.
        order = sorted(range(len(captions)), key=lambda index: len(captions[index]))

        def embed(batch: Sequence[int]) -> Tensor:
            tokens = self.model.backbone.tokenize([captions[index] for index in batch])
            return self.model.encode_text(tokens.to(self._device))

        return self._in_batches(embed, order, batch_size)[np.argsort(order)]

    def _in_batches(self, embed: Callable[[Sequence[T]], Tensor], items: Sequence[T], size: int) -> Embeddings:
        import torch

        from mwactl.backbone.contract import unit_rows

        with torch.inference_mode():
            rows = [unit_rows(embed(batch).float()).cpu().numpy() for batch in _batches(items, size)]
        return np.concatenate(rows) if rows else np.empty((0, self.width), np.float32)


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
