"""What the toolkit asks of a picture's file: a `Path` has it all, and so has a picture inside a tar or a table."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple, Protocol


class Stat(Protocol):
    """What changes when a picture's bytes do."""

    @property
    def st_size(self) -> int:
        """Bytes of the picture."""

    @property
    def st_mtime_ns(self) -> int:
        """When the file that holds it was last changed."""


class PictureFile(Protocol):
    """A picture's file, or what stands for one.

    Equal ones are the same picture's place; `str` names it for people and in caches; it pickles in a few bytes, for
    it goes to the loader's processes.
    """

    @property
    def name(self) -> str:
        """Its file name, which belongs to a split's identity: the same in every layout."""

    def is_absolute(self) -> bool:
        """Whether it means the same in every working directory."""

    def is_file(self) -> bool:
        """Whether it is there."""

    def stat(self) -> Stat:
        """Its size and time of change.

        Raises:
            OSError: It is not there.
        """

    def read_bytes(self) -> bytes:
        """Its bytes as they were stored.

        Raises:
            OSError: They cannot be read.
        """


class Stamp(NamedTuple):
    """Size and time of change of a file that holds pictures."""

    st_size: int
    st_mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """That of a file now.

        Raises:
            OSError: It is not there.
        """
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


def changed_since(path: Path) -> OSError:
    """The error for a file with many pictures that is no longer the one whose index was read."""
    return OSError(errno.ESTALE, "the file changed after its index was read; run the command again", str(path))
