"""mwactl: the whole life of an adapter in image-text retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwactl.search import Encoder

__version__ = "0.1.0"


def load(name: str | None = None, *, device: str = "auto", download: bool = False) -> Encoder:
    """A model by its name: `mwactl.load("coco-mwa:prod").encode_texts(["two dogs"])` -> [1, e], rows of length one.

    Args:
        name: A registry reference (adapter or merged model), or a folder that `mwactl export` wrote; None: the newest.
        device: `auto`, `cpu` or `cuda`.
        download: Whether the network may be used for the backbone's weights.

    Raises:
        MwactlError: There is no such model, it is damaged, or its backbone is not here.
    """
    from mwactl.workflow.encoder import open_encoder  # imports torch only where it is needed

    return open_encoder(name, device=device, download=download)
