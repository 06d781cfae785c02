"""Pointers numbered 1, 2, 3…: one small file each, created once, never changed; versions and attachments are such.

`3` is renamed to `3.removed` to remove it: one step, the digest is kept, and the number stays taken for ever.
"""

from __future__ import annotations

import errno
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from mwactl.errors import VerificationError
from mwactl.files import sync_directory
from mwactl.registry.fault import REPAIR
from mwactl.registry.staging import make_directory, staged, write_all

_TOMBSTONE = ".removed"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_POINTER = re.compile(rb"[0-9a-f]{64}\n")
_POINTER_BYTES = 65
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
        self._prefix = f"{directory}/"  # lists read thousands: writing a Path out each time is slow

    def numbers(self) -> list[int]:
        """The numbers that exist, ascending."""
        existing, removed = self._taken()
        return sorted(existing - removed)

    def removed(self) -> list[int]:
        """The numbers that were removed, ascending."""
        return sorted(self._taken()[1])

    def ends(self) -> tuple[int, int]:
        """The highest number that exists, and the highest that was ever taken; 0 where there is none."""
        existing, removed = self._taken()
        highest = max(existing, default=0)
        newest = highest if highest not in removed else max(existing - removed, default=0)
        return newest, max(highest, max(removed, default=0))

    def exists(self, number: int) -> bool:
        """Whether `numbers` has this one, without listing the others."""
        return self._path(number).exists() and not self._tombstone(number).exists()

    def is_removed(self, number: int) -> bool:
        """Whether there was a pointer with this number."""
        return self._tombstone(number).exists()

    def digest(self, number: int) -> str:
        """The digest that a pointer holds.

        Raises:
            VerificationError: The pointer cannot be read, or holds something else.
        """
        return _read_digest(f"{self._prefix}{number}")

    def removed_digest(self, number: int) -> str:
        """The digest that a removed pointer held; errors as in `digest`."""
        return _read_digest(f"{self._prefix}{number}{_TOMBSTONE}")

    def intact_digest(self, number: int, otherwise: str) -> str:
        """The digest that a pointer holds; `otherwise` where it is corrupt (for searches, which go on to the next)."""
        try:
            return self.digest(number)
        except VerificationError:
            return otherwise

    def time_ns(self, number: int) -> int:
        """When the pointer was made, in nanoseconds since 1970 (the file's modification time, also of a tombstone)."""
        for path in (self._path(number), self._tombstone(number)):  # it may be removed, and restored, meanwhile
            with suppress(FileNotFoundError):
                return path.stat().st_mtime_ns
        return self._path(number).stat().st_mtime_ns

    def add(self, digest: str, taken: int | None = None) -> int:
        """Make a pointer with the next free number; two processes never get the same one, even without a lock.

        Args:
            digest: What it holds.
            taken: The highest number that was ever taken, where the caller has just listed them (`ends`).
        """
        make_directory(self._directory)
        with staged(self._root, f"{digest}\n".encode("ascii")) as fresh:
            # The kernel's own time stamps are some milliseconds coarse; "the newest" has to be exact.
            now = time.time_ns()
            os.utime(fresh.path, ns=(now, now))
            number = (self.ends()[1] if taken is None else taken) + 1
            while not (_create(self._path(number), fresh.path) and self._is_kept(number, digest)):
                number += 1
            sync_directory(self._directory)
        return number

    def remove(self, number: int) -> None:
        """Turn a pointer into a tombstone; `restore` turns it back."""
        self._path(number).replace(self._tombstone(number))
        sync_directory(self._directory)

    def restore(self, number: int) -> None:
        """Bring back a pointer that was removed."""
        self._tombstone(number).replace(self._path(number))
        sync_directory(self._directory)

    def _is_kept(self, number: int, digest: str) -> bool:
        # Where the lock is none, a directory that is listed during a rename can show neither of the two names: then a
        # number that was just removed looked free, and is dead; or `restore` has put its own pointer over this one.
        return not self._tombstone(number).exists() and self.intact_digest(number, "") == digest

    def _taken(self) -> tuple[set[int], set[int]]:
        """The numbers with a pointer, and those with a tombstone: who has both is removed."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 (a name each, not a Path: there may be thousands)
        except FileNotFoundError:
            return set(), set()
        removed = {name.removesuffix(_TOMBSTONE) for name in names if name.endswith(_TOMBSTONE)}
        return set(map(int, filter(_NUMBER.fullmatch, names))), set(map(int, filter(_NUMBER.fullmatch, removed)))

    def _path(self, number: int) -> Path:
        return self._directory / str(number)

    def _tombstone(self, number: int) -> Path:
        return self._directory / f"{number}{_TOMBSTONE}"


def _read_digest(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY)  # a third of the time of Path.read_bytes: lists read thousands
        try:
            data = os.read(descriptor, 2 * _POINTER_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        fix = f"make the file readable, or: {REPAIR}"
        raise VerificationError("a pointer cannot be read", where=path, why=error.strerror, fix=fix) from error
    if not _POINTER.fullmatch(data):
        text = data.decode("ascii", "replace")
        raise VerificationError(
            "a pointer is corrupt",
            where=path,
            why=f"expected a SHA-256 and a line end, found {text[:70]!r}",
            fix=f"{REPAIR}   (or restore this file from a backup)",
        )
    return data[:-1].decode("ascii")


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
