"""Small pictures of hits, from wherever they lie."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from mwactl.data.picture import decode
from mwactl.errors import DataError
from mwactl.search.item import Item


def thumbnail(item: Item, side: int) -> Image.Image | None:
    """The hit's picture with its longer side `side` pixels; None if it is no picture, or is not there any more."""
    if item.text is not None:
        return None
    try:
        picture = decode(io.BytesIO(item.read()), Path(item.place))
    except DataError:
        return None
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)
