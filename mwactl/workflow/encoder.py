"""Pictures and captions to embeddings, whatever computes them: a registry entry with torch, or a bundle without.

Shape notation: n pictures or captions, e the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from mwactl.data.workers import worker_count
from mwactl.errors import MwactlError, UsageError
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
        UsageError: No such device, options for a bundle that it has no use for, or a name of two models.
    """
    registry = registry or Registry.default()
    if name is not None and names_bundle(name, registry):
        given = {"--backbone": backbone_name, "--weights": weights, "--download": download}
        if unused := " or ".join(option for option, value in given.items() if value):
            raise UsageError(f"{name} needs no {unused}", why="a bundle holds all it needs", fix=f"leave out {unused}")
        return open_bundle(name, device=device)
    from mwactl.workflow.load import load_model

    entry = registry.resolve(name)
    model = load_model(registry, entry, backbone_name=backbone_name, weights=weights, download=download)
    return TorchEncoder(model, entry, device)


def names_bundle(name: str, registry: Registry) -> bool:
    """Whether a name is the folder of a bundle.

    Raises:
        UsageError: It is, and is a reference into the registry as well.
    """
    if not is_bundle(name):
        return False
    if "/" in name:
        return True
    try:
        entry = registry.resolve(name)
    except MwactlError:
        return True
    other = entry.reference if entry.reference != name else f"{entry.name}@sha256:{entry.digest[:12]}"
    raise UsageError(
        f"{name!r} is a folder here and a name in the registry", why="they may be different models",
        fix=f"./{name} for the bundle in the folder, or {other}",
    )  # fmt: skip


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

        # Pillow lets go of the interpreter while it decodes and resizes.
        with ThreadPoolExecutor(max(1, worker_count(None)), "decode") as pool:

            def embed(batch: Sequence[Picture]) -> Tensor:
                with picture_errors():
                    pixels = torch.stack(list(pool.map(self._pixels, batch)))
                return self.model.encode_image(pixels.to(self._device))

            return self._in_batches(embed, images, batch_size)

    def _pixels(self, picture: Picture) -> Tensor:
        return self._transform(open_picture(picture))

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
