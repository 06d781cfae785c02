"""Pointers numbered 1, 2, 3…: one small file each, created once, never changed; versions and attachments are such."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path

from mwactl.errors import VerificationError
from mwactl.files import sync_directory
from mwactl.registry.blobs import is_digest
from mwactl.registry.staging import make_directory, staged, write_all

# `3.removed` is a tombstone: nothing can be read there, and the number is never given again.
_TAKEN = re.compile(r"([1-9][0-9]{0,8})(\.removed)?")
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class NumberedPointers:
    """A directory of numbered files that each hold the digest of a blob.

    Args:
        root: The registry, for staging.
        directory: Where the pointers are; it need not exist.
    """

    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        self._directory = directory

    def numbers(self) -> list[int]:
        """The numbers that exist, ascending."""
        return sorted(number for number, removed in self._taken() if not removed)

    def digest(self, number: int) -> str:
        """The digest that a pointer holds.

        Raises:
            VerificationError: The pointer cannot be read, or holds something else.
        """
        path = self._directory / str(number)
        try:
            text = path.read_bytes().decode("ascii", "replace")
        except OSError as error:
            raise VerificationError("a pointer cannot be read", where=str(path), why=error.strerror) from error
        if not text.endswith("\n") or not is_digest(text[:-1]):
            raise VerificationError(
                "a pointer is corrupt",
                where=str(path),
                why=f"expected a SHA-256 and a line end, found {text[:70]!r}",
                fix="restore this file from a backup, or publish the same files again as a new version",
            )
        return text[:-1]

    def intact_digest(self, number: int, otherwise: str) -> str:
        """The digest that a pointer holds; `otherwise` where it is corrupt (for searches, which go on to the next)."""
        try:
            return self.digest(number)
        except VerificationError:
            return otherwise

    def time_ns(self, number: int) -> int:
        """When the pointer was made, in nanoseconds since 1970 (the file's modification time)."""
        return (self._directory / str(number)).stat().st_mtime_ns

    def add(self, digest: str) -> int:
        """Make a pointer with the next free number; two processes never get the same one, even without a lock."""
        make_directory(self._directory)
        with staged(self._root, f"{digest}\n".encode("ascii")) as fresh:
            # The kernel's own time stamps are some milliseconds coarse; "the newest" has to be exact.
            now = time.time_ns()
            os.utime(fresh.path, ns=(now, now))
            number = max((number for number, _ in self._taken()), default=0) + 1
            while not _create(self._directory / str(number), fresh.path):
                number += 1
            sync_directory(self._directory)
        return number

    def _taken(self) -> list[tuple[int, bool]]:
        if not self._directory.is_dir():
            return []
        matches = (_TAKEN.fullmatch(path.name) for path in self._directory.iterdir())
        return [(int(match[1]), match[2] is not None) for match in matches if match]


def _create(target: Path, content: Path) -> bool:
    """Give a complete file its name, unless the name is taken: a hard link does both in one step."""
    try:
        os.link(content, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _create_without_link(target, content)
    return True


def _create_without_link(target: Path, content: Path) -> bool:
    # Still one winner a number; but a kill between the two steps leaves an empty pointer, which is listed as corrupt.
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:
        return False
    try:
        write_all(descriptor, content.read_bytes())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    stat = content.stat()
    os.utime(target, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    return True
