"""Digests of large files: taken once for as long as a file does not change, and recorded beside it in a form that
`sha256sum -c` reads. No torch.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mwactl.errors import ResourceError, VerificationError
from mwactl.files import atomic_write, canonical_json, sha256_bytes, sha256_file
from mwactl.home import cache_path

_RECORD = re.compile(r"([0-9a-f]{64})[ \t]")


def known_sha256(path: Path) -> str:
    """The SHA-256 of a file; one that is as it was when it was last hashed is not read again.

    Raises:
        ResourceError: The file cannot be read, or what was found cannot be remembered.
    """
    path = path.resolve()
    entry = cache_path() / "digests" / f"{sha256_bytes(os.fsencode(path))[:32]}.json"
    before = _identity(path)
    if (known := _remembered(entry, before)) is not None:
        return known
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise ResourceError("this file cannot be read", where=str(path), why=error.strerror) from error
    if _identity(path) == before:  # one that is still being written is not remembered
        atomic_write(entry, canonical_json({**before, "sha256": digest}))
    return digest


def recorded_sha256(path: Path) -> str | None:
    """The digest that the file beside `path` says `path` has; None where there is no such file.

    Raises:
        VerificationError: That file holds no digest.
    """
    record = record_path(path)
    try:
        found = _RECORD.match(record.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    if found is None:
        raise VerificationError(
            "this record of a digest is damaged",
            where=str(record),
            why="it does not start with 64 hexadecimal digits",
            fix=f"rm {record}  and the digest is recorded anew",
        )
    return found.group(1)


def record_sha256(path: Path, digest: str) -> None:
    """Say beside a file which digest it has.

    Raises:
        ResourceError: The disk is full.
    """
    atomic_write(record_path(path), f"{digest}  {path.name}\n".encode())


def record_path(path: Path) -> Path:
    """The file beside `path` that holds its digest."""
    return path.with_name(f"{path.name}.sha256")


def _identity(path: Path) -> dict[str, int]:
    """What changes whenever a file is written or replaced."""
    stat = path.stat()
    return {
        "device": stat.st_dev,
        "inode": stat.st_ino,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,  # cannot be set: it tells of a write whose time stamp was put back
    }


def _remembered(entry: Path, identity: dict[str, int]) -> str | None:
    """The digest in a cache entry, if it is of this very file; a damaged entry is as good as none."""
    try:
        document = json.loads(entry.read_bytes())
        digest = document.pop("sha256")
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return digest if document == identity and isinstance(digest, str) and len(digest) == 64 else None
