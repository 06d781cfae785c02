"""Opening a picture: any file Pillow reads becomes RGB as a person would see it, or an error that names the file."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mwactl.errors import DataError

MAX_PIXELS = 200_000_000
"""Pictures with more pixels are refused before they are decoded. Pillow's own error limit, twice
`PIL.Image.MAX_IMAGE_PIXELS` (179 million unless changed), holds as well: the smaller of the two decides."""

# What Pillow's decoders raise on damaged files, beside OSError.
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
    Warning,  # where warnings are errors: of damaged metadata, or of more pixels than usual
)


def open_image(path: Path) -> Image.Image:
    """Open a picture whole.

    The EXIF orientation is applied. Transparency is put on white. Of an animation the first frame is taken. 16-bit
    greys are scaled to 8 bits. Colour profiles are not applied, as in all retrieval benchmarks.

    Returns:
        The picture, mode RGB.

    Raises:
        DataError: There is no such file, it is no picture, it is damaged, it has too many pixels, or its values have
            no defined range (floats).
    """
    if not path.is_file():
        raise unreadable(path, "no such file")
    try:
        with path.open("rb") as file:
            return decode(file, path)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error


def decode(file: IO[bytes], path: Path) -> Image.Image:
    """Decode a picture from an open file, as `open_image` does; `path` is for the error message.

    Raises:
        DataError: As `open_image`.
    """
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise unreadable(path, f"{image.width:,} × {image.height:,} pixels; at most {MAX_PIXELS:,} are allowed")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except UnidentifiedImageError as error:
        empty = file.seek(0, io.SEEK_END) == 0
        raise unreadable(path, "the file is empty" if empty else "not a picture of a known format") from error
    except _DECODING_ERRORS as error:
        raise unreadable(path, str(error) or type(error).__name__) from error


def unreadable(path: Path, why: str) -> DataError:
    """The error for one picture."""
    return DataError(
        "cannot read the picture",
        where=str(path),
        why=why,
        fix="repair or remove it, or leave such pictures out: data.on_error=skip (eval: --on-error skip)",
    )


def _rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, whatever its mode."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bit(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} of {image.format} has no defined range of values; convert it to 8 bits")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        return Image.alpha_composite(white, colour).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits in 8 bits: 65535 becomes 255. (Pillow's own conversion clips at 255.)"""
    values = np.asarray(image).astype(np.uint32)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[values == transparent] = 65535  # on white
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
