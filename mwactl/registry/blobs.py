"""Content under the name of its digest: `blobs/sha256/ab/ab12…`, hashed before it is trusted, every time."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from mwactl.errors import VerificationError
from mwactl.files import sha256_bytes, sha256_file, sync_directory
from mwactl.registry.staging import Source, make_directory, staged

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: object) -> bool:
    """Whether this is a SHA-256 as the registry spells it: 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


class BlobStore:
    """The blobs of one registry.

    Args:
        root: The registry's directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        """Where the blob with this digest lies, or would lie."""
        if not is_digest(digest):  # it becomes a path: nothing but hexadecimal digits may get there
            raise ValueError(f"not a SHA-256: {digest!r}")
        return self._directory / f"{digest[:2]}/{digest}"  # one step: lists ask for thousands

    def put(self, source: Source, *, expect: str | None = None, where: str = "a blob") -> tuple[str, int]:
        """Store bytes.

        A blob that exists is hashed before it counts: a rotten one moves to `quarantine/`. The fresh copy then takes
        its place even where the old one was good: that restarts its age, and clean-up spares what is young.

        Args:
            source: Where the bytes are.
            expect: The digest that somebody says they have; other bytes get no name here.
            where: What the bytes are, for the error.

        Returns:
            The digest and the size in bytes.

        Raises:
            VerificationError: The bytes are not what was expected.
        """
        with staged(self._root, source) as fresh:
            if expect not in (None, fresh.digest):
                raise VerificationError(
                    f"{where} is not what its digest says",
                    why=f"expected sha256:{expect[:12]}…, found sha256:{fresh.digest[:12]}…",
                    fix="fetch it again from where it came from",
                )
            target = self.path(fresh.digest)
            make_directory(target.parent)
            self.set_aside_if_rotten(fresh.digest)
            fresh.path.replace(target)
            sync_directory(target.parent)
        return fresh.digest, fresh.size

    def read(self, digest: str, *, where: str) -> bytes:
        """The verified bytes of a blob.

        Args:
            digest: The blob's SHA-256.
            where: What the blob is to the reader (`coco@3 adapter.safetensors`), for the error.

        Raises:
            VerificationError: The blob is missing, cannot be read, or is not what its digest says.
        """
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, where, error) from error
        _check(path, digest, sha256_bytes(data), where)
        return data

    def verified(self, digest: str, *, where: str) -> Path:
        """Where a blob lies whose bytes have been verified: for those too large to hold in memory.

        Args:
            digest: The blob's SHA-256.
            where: What the blob is to the reader, for the error.

        Raises:
            VerificationError: The blob is missing, cannot be read, or is not what its digest says.
        """
        path = self.path(digest)
        try:
            found = sha256_file(path)
        except OSError as error:
            raise _unreadable(path, where, error) from error
        _check(path, digest, found, where)
        return path

    def check_size(self, digest: str, size: int, *, where: str) -> None:
        """Look, without reading, whether a blob is there and as long as it should be.

        Raises:
            VerificationError: It is not.
        """
        path = self.path(digest)
        try:
            found = path.stat().st_size
        except OSError as error:
            raise _unreadable(path, where, error) from error
        if found != size:
            raise VerificationError(
                f"{where} is corrupt", where=str(path), why=f"expected {size:,} bytes, found {found:,}", fix=_HEAL
            )

    def set_aside_if_rotten(self, digest: str) -> bool:
        """Move a blob to `quarantine/` unless it is whole, or not there; whether it was moved."""
        path = self.path(digest)
        if not path.exists() or not _is_rotten(path, digest):
            return False
        self._quarantine(path)
        return True

    def _quarantine(self, path: Path) -> None:
        directory = self._root / "quarantine"
        make_directory(directory)
        # Where the file system has no locks, another writer may have moved it first: then the work is done.
        with suppress(FileNotFoundError):
            path.replace(directory / f"{path.name}.{os.urandom(4).hex()}")
        sync_directory(directory)


_HEAL = "publish the same files again (that replaces the damaged copy), or restore this file from a backup"


def _is_rotten(path: Path, digest: str) -> bool:
    try:
        return sha256_file(path) != digest
    except OSError:  # a bad sector, or something that is no file: as rotten as wrong bytes
        return True


def _check(path: Path, digest: str, found: str, where: str) -> None:
    if found != digest:
        raise VerificationError(
            f"{where} is corrupt",
            where=str(path),
            why=f"expected sha256:{digest[:12]}…, found sha256:{found[:12]}…",
            fix=_HEAL,
        )


def _unreadable(path: Path, where: str, error: OSError) -> VerificationError:
    missing = isinstance(error, FileNotFoundError)
    state = "is missing" if missing else "cannot be read"
    return VerificationError(f"{where} {state}", where=str(path), why=None if missing else error.strerror, fix=_HEAL)
