"""Writing, hashing and naming bytes safely: every file that matters goes through here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mwactl.errors import ResourceError, UsageError
from mwactl.home import home

_CHUNK_BYTES = 1 << 20
#: Of a place that is none: a file where a folder must be, or the reverse; nothing can be made there; too long a name.
_NO_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG)


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; the file is read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value (RFC 8785 in spirit): sorted keys, no blanks, UTF-8, no NaN.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a directory; the rename itself is still atomic there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears at `path` complete or not at all.

    The bytes go to a temporary file in the same directory; on leaving the block without an error it is synced,
    renamed into place, and the directory is synced. After an error nothing of it remains.

    Raises:
        ResourceError: The disk is full, read-only, or not this user's to write to.
        UsageError: There can be no such file.
    """
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary_name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(temporary_name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files private; a shared directory expects what the umask allows.
            temporary.chmod(0o666 & ~_current_umask())
            temporary.replace(path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all.

    Raises:
        ResourceError: As `atomic_file`.
        UsageError: As `atomic_file`.
    """
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def naming_write_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors for a place that cannot be written to, while `path` is written, into helpful ones.

    Raises:
        ResourceError: The disk is full, read-only, or not this user's to write to.
        UsageError: The place is none: its folder is a file, it is a folder itself, or nothing can be made there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(
                "this place cannot be written to",
                where=str(error.filename or path),
                why=error.strerror,
                fix=_another_place(path),
            ) from error
        if error.errno in _NO_PLACE and error.filename and _is_about(Path(error.filename), path.absolute()):
            raise UsageError(
                "this place cannot be written to",
                where=str(error.filename if Path(error.filename) in path.parents else path),
                why=error.strerror,
                fix=_another_place(path),
            ) from error
        raise


def _is_about(named: Path, path: Path) -> bool:
    """Whether an error that names a path is about where `path` is written, and not about something that is read."""
    return named in (path, *path.parents) or named.parent in (path, path.parent)


def _another_place(path: Path) -> str:
    ours = path.absolute().is_relative_to(home().absolute())
    return "choose another with MWACTL_HOME=/a/folder/of/yours" if ours else "choose another place"


def no_space(path: Path, need_bytes: int | None = None) -> ResourceError:
    """The error for a full disk, with the figures a user needs: what is free, and, where it is known, what it takes."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    stat = os.statvfs(existing)
    free_mb = stat.f_bavail * stat.f_frsize / 1e6
    return ResourceError(
        "the disk is full; nothing was half-written",
        where=str(path),
        why=f"{free_mb:,.1f} MB are free there" + (f", {need_bytes / 1e6:,.1f} MB are needed" if need_bytes else ""),
        fix="free some space, or move everything with MWACTL_HOME=/a/larger/disk",
    )


def _current_umask() -> int:
    """The process's umask (there is no way to read it but to set it)."""
    umask = os.umask(0o022)
    os.umask(umask)
    return umask
