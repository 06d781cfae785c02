"""What every copy of a bundle must compute again: a picture, captions, and what torch made of them, step by step.

Shape notation: h and w the picture's pixels, s tokens, e the shared space.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mwactl.backbone.contract import Backbone, unit_rows
from mwactl.backbone.portable import Portable
from mwactl.export.graph import Model, without_padding

FILE = "golden.npz"
#: Not square, so that a transform which squashes cannot be taken for one that crops; sides that no model has.
_HEIGHT, _WIDTH = 203, 331
_CAPTIONS = (
    "a dog",
    "two dogs in the snow",
    "Four colours & shapes: a circle, a square and some noise, as no photograph has them; this caption is rather long",
)


@torch.inference_mode()
def golden(model: Model, backbone: Backbone, portable: Portable) -> bytes:
    """The file `golden.npz`, by torch in fp32: the same bytes for the same model.

    Holds `picture` uint8 [h, w, 3], `pixels` fp32 [1, 3, H, W], `captions` [3], `tokens` int64 [3, s],
    `image_embeddings` [1, e] and `text_embeddings` [3, e], unit rows.
    """
    picture = synthetic_picture()
    pixels = backbone.image_transform()(Image.fromarray(picture))[None]
    tokens = backbone.tokenize(_CAPTIONS)
    if portable.text["trim"]:
        tokens = without_padding(tokens, int(portable.text["padding"]))
    file = io.BytesIO()
    np.savez(
        file,
        picture=picture,
        pixels=pixels.numpy(),
        captions=np.array(_CAPTIONS),
        tokens=tokens.numpy(),
        image_embeddings=unit_rows(model.encode_image(pixels)).numpy(),
        text_embeddings=unit_rows(model.encode_text(tokens)).numpy(),
    )
    return file.getvalue()


def synthetic_picture() -> NDArray[np.uint8]:
    """Gradients, edges and noise, [h, w, 3]: every pixel differs from its neighbours, so that no resizing is alike."""
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    circle = (y - 90) ** 2 + (x - 120) ** 2 < 60**2
    square = (abs(y - 120) < 40) & (abs(x - 250) < 40)
    noise = (x * 7919 + y * 104729) % 64
    channels = [x * 190 // _WIDTH + noise, y * 190 // _HEIGHT + (noise * 3) % 64, 190 * circle + noise]
    picture: NDArray[np.uint8] = np.stack([np.where(square, 255 - plane, plane) for plane in channels], axis=-1)
    return picture.astype(np.uint8)
