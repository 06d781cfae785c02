"""Opening a picture of a data set: as the runtime opens it, or an error that names the file and the way on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

from PIL import Image

from mwactl.data.picture_file import PictureFile
from mwactl.errors import DataError
from mwactl.runtime import PictureError, open_picture


def open_image(path: PictureFile) -> Image.Image:
    """Open a picture whole: RGB as a person sees it (`mwactl.runtime.open_picture`).

    Raises:
        DataError: There is no such file, it is no picture, it is damaged, it has too many pixels, or its values have
            no defined range (floats).
    """
    if isinstance(path, Path):
        return _opened(path, path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    return _opened(io.BytesIO(data), path)


def decode(file: IO[bytes], path: PictureFile) -> Image.Image:
    """Decode a picture from an open file, as `open_image` does; `path` is for the error message.

    Raises:
        DataError: As `open_image`.
    """
    return _opened(file, path)


def unreadable(path: PictureFile, why: str) -> DataError:
    """The error for one picture."""
    return DataError(
        "cannot read the picture",
        where=str(path),
        why=why,
        fix="repair or remove it, or leave such pictures out: data.on_error=skip (eval: --on-error skip)",
    )


def _opened(picture: Path | IO[bytes], path: PictureFile) -> Image.Image:
    try:
        return open_picture(picture, str(path))
    except PictureError as error:
        raise unreadable(path, error.why) from error.__cause__
