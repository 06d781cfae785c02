"""What search needs of a model: two calls that embed, and who it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Encoder(Protocol):
    """A model that embeds pictures and captions into one space, whatever computes it.

    Shape notation: n pictures or captions, e the shared space.
    """

    @property
    def identity(self) -> str:
        """The digest of exactly these weights at this precision. Other embeddings: another identity."""

    @property
    def preprocess_digest(self) -> str:
        """The digest of how pictures and captions become the model's input."""

    @property
    def width(self) -> int:
        """e."""

    def encode_images(
        self, images: Sequence[Image.Image | Path | str | bytes], batch_size: int = ...
    ) -> NDArray[np.float32]:
        """Pictures -> [n, e], rows of length one."""

    def encode_texts(self, captions: Sequence[str], batch_size: int = ...) -> NDArray[np.float32]:
        """Captions -> [n, e], rows of length one."""
