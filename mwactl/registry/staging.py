"""The one way bytes enter the registry: whole and synced in `tmp/` first, then under their final name in one step.

`files.atomic_write` stages beside its target under a name known beforehand. Here the name is the digest of the bytes,
or a number that is only free until someone else takes it; so the staged file is handed out, to be moved or linked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from mwactl.errors import MwactlError
from mwactl.files import no_space, sync_directory

_CHUNK_BYTES = 1 << 20
_READ_ONLY = 0o444


class Stretch(Protocol):
    """Bytes that lie in something larger, such as a member of a tar."""

    @property
    def size(self) -> int:
        """How many there are."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, from the first to the last, as often as they are asked for."""


Source: TypeAlias = Path | bytes | Stretch
"""Where bytes come from: a file, memory, or part of a file."""


@dataclass(frozen=True)
class Staged:
    """A complete, synced, read-only file in `tmp/`."""

    path: Path
    digest: str
    size: int


@contextmanager
def staged(root: Path, source: Source) -> Iterator[Staged]:
    """Copy a source to the registry's `tmp/`, hashing it on the way; what is still there at the end goes.

    Args:
        root: The registry.
        source: Where the bytes are.
    """
    make_directory(root / "tmp")
    path = root / "tmp" / f"{os.urandom(16).hex()}.part"
    try:
        digest, size = _copy(source, path)
        yield Staged(path, digest, size)
    finally:
        path.unlink(missing_ok=True)


def make_directory(directory: Path) -> None:
    """Create a directory with its missing parents, each one synced into the parent above it."""
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`; one `os.write` may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def size_of(source: Source) -> int:
    """How many bytes a source has."""
    if isinstance(source, bytes):
        return len(source)
    return source.stat().st_size if isinstance(source, Path) else source.size


def chunks_of(source: Source) -> Iterator[bytes]:
    """The bytes of a source, a megabyte at a time.

    Raises:
        MwactlError: The file cannot be read.
    """
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as error:  # told apart from a registry that may not be written
            what, fix = "a file to publish cannot be read", f"make it readable: chmod u+r {shlex.quote(str(source))}"
            raise MwactlError(what, where=str(source), why=error.strerror, fix=fix) from error
        with file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    else:
        yield from source.chunks()


@contextmanager
def write_failures(root: Path, need_bytes: int) -> Iterator[None]:
    """Turn a full disk and a registry that may not be written into errors with a next step.

    Args:
        root: The registry.
        need_bytes: What the whole write takes, for the error.

    Raises:
        ResourceError: The disk is full.
        MwactlError: This user may not write there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(root, need_bytes) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MwactlError(
                "the registry cannot be written",
                where=str(error.filename or root),
                why=error.strerror,
                fix="ask for write access, or keep a registry of your own with MWACTL_REGISTRY=/a/directory",
            ) from error
        raise


def _copy(source: Source, target: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for chunk in chunks_of(source):
            digest.update(chunk)
            size += len(chunk)
            write_all(descriptor, chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    target.chmod(_READ_ONLY)
    return digest.hexdigest(), size
