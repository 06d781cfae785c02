"""Reading a split's pictures from the cache: from memory maps, without decoding."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mwactl.data.cache_part import Part, Stored
from mwactl.data.geometry import Geometry
from mwactl.data.picture import open_image
from mwactl.data.picture_file import PictureFile
from mwactl.errors import VerificationError

_MAPS = 256  # files held open by a process, which may have a thousand
_ABSENT = -1


class CachedPictures:
    """The pictures of a split after a geometry, by their index; those the cache lacks are decoded each time.

    Args:
        geometry: What was done to them.
        images: The files of the split.
        digests: SHA-256 of each file.
        stored: Digest -> its part and its place there.
    """

    def __init__(
        self,
        geometry: Geometry,
        images: Sequence[PictureFile],
        digests: Sequence[str | None],
        stored: Mapping[str, tuple[Part, Stored]],
    ) -> None:
        self._geometry = geometry
        self._images = images
        found = [stored.get(digest) if digest else None for digest in digests]
        parts = {entry[0].path: number for number, entry in enumerate(found) if entry}
        self._paths = tuple(parts)
        numbers = {path: number for number, path in enumerate(self._paths)}
        # [n, 5]: part, offset, h, w, CRC-32. An array, which loader processes share; they would each copy a list.
        self._rows = np.full((len(images), 5), _ABSENT, np.int64)
        for row, entry in zip(self._rows, found, strict=True):
            if entry:
                row[:] = (numbers[entry[0].path], *entry[1][1:])
        self._datasets = {entry[0].path: entry[0].dataset for entry in found if entry}
        self._map = lru_cache(_MAPS)(_mapped)

    @property
    def count(self) -> int:
        """How many pictures the cache has."""
        return int((self._rows[:, 0] != _ABSENT).sum())

    def __call__(self, index: int) -> Image.Image:
        """The picture of an index, RGB.

        Raises:
            VerificationError: Its bytes are not those that were written.
            DataError: It is not in the cache, and its file cannot be read.
        """
        part, offset, height, width, crc = (int(number) for number in self._rows[index])
        if part == _ABSENT:
            return self._geometry(open_image(self._images[index]))
        path, size = self._paths[part], height * width * 3
        try:
            with memoryview(self._map(path))[offset : offset + size] as data:
                if len(data) != size or zlib.crc32(data) != crc:
                    raise self._damaged(path, index, "its bytes have another checksum than when they were written")
                return Image.frombytes("RGB", (width, height), data)
        except (OSError, ValueError) as error:  # deleted or cut since the cache was opened
            raise self._damaged(path, index, str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: a process that was not forked makes its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_map"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._map = lru_cache(_MAPS)(_mapped)

    def _damaged(self, path: Path, index: int, why: str) -> VerificationError:
        return VerificationError(
            f"a cached picture is damaged: that of {self._images[index]}",
            where=str(path),
            why=why,
            fix=f"mwactl data cache {self._datasets[path]} --remove   (it can be made again)",
        )


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
