"""A picture inside a tar: read from the middle of it, nothing is unpacked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mwactl.data.picture_file import Stamp, changed_since


@dataclass(frozen=True, slots=True)
class TarMember:
    """A `PictureFile`.

    Args:
        tar: The uncompressed tar, absolute.
        stamp: Its size and time of change when its headers were read.
        member: The name of the picture in it, as it is written there. It names, and is never a path that is opened.
        offset: Of the picture's first byte.
        size: Of the picture.
    """

    tar: Path
    stamp: Stamp
    member: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}:{self.member}"

    @property
    def name(self) -> str:
        """The last part of the member's name."""
        return PurePosixPath(self.member).name

    def is_absolute(self) -> bool:
        """Whether the tar's path is."""
        return self.tar.is_absolute()

    def is_file(self) -> bool:
        """Whether the tar is there."""
        return self.tar.is_file()

    def stat(self) -> Stamp:
        """The picture's size, and when the tar was last changed."""
        return Stamp(self.size, Stamp.of(self.tar).st_mtime_ns)

    def read_bytes(self) -> bytes:
        """The picture's bytes; nothing else of the tar is read."""
        with self.tar.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != self.stamp:
                raise changed_since(self.tar)
            file.seek(self.offset)
            return file.read(self.size)
