"""An entry in a folder of its own, outside the registry: `manifest.json` as it was published, and the files beside it.

A clone of a repository that `push` made is such a folder too; there the manifest is called `mwactl-manifest.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mwactl.errors import NotFoundError, VerificationError
from mwactl.files import sha256_bytes, sha256_file
from mwactl.registry.entry import Entry
from mwactl.registry.manifest import check_publishable, parse_manifest

_COPY_AGAIN = "copy or fetch the folder again"
_NO_LINKS = "put the file itself in the folder (cp -L follows links)"
MANIFESTS = ("manifest.json", "mwactl-manifest.json")


@dataclass(frozen=True)
class FolderEntry(Entry):
    """An entry that has no number and no place in the registry; its files are verified when they are read."""

    folder: Path
    """Where it is."""
    typed: str
    """How the user named the folder."""
    manifest_bytes: bytes
    """The manifest as it lies there."""

    @property
    def is_itself(self) -> bool:
        """Whether this is what lies in the folder, and not an ancestor of it that was put in its place."""
        return self.digest == sha256_bytes(self.manifest_bytes)

    @property
    def reference(self) -> str:
        """The folder, as it was typed."""
        return self.typed


def read_folder(typed: str) -> FolderEntry:
    """Read the manifest in a folder; the files are there and have the right sizes.

    Args:
        typed: The folder's path.

    Raises:
        NotFoundError: There is no such folder, or no manifest in it.
        UsageError: The manifest names a file that no registry would keep.
        IncompatibleError: A newer version wrote the manifest.
        VerificationError: The manifest or a file is not what was published.
    """
    folder = Path(typed).expanduser()
    try:
        path = next((folder / name for name in MANIFESTS if (folder / name).is_file()), None)
    except OSError as error:  # too long a name, a folder that may not be entered
        raise NotFoundError(
            "this folder cannot be read", where=typed, why=error.strerror, fix="check the path"
        ) from error
    if path is None:
        raise NotFoundError(
            "this folder holds no adapter" if folder.is_dir() else "there is no such folder",
            where=typed,
            why=f"it has no {MANIFESTS[0]}" if folder.is_dir() else None,
            fix="name a folder with manifest.json and the files it lists, or an adapter: mwactl registry list",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VerificationError(
            "the manifest cannot be read",
            where=str(path),
            why=error.strerror,
            fix=f"make it readable, or {_COPY_AGAIN}",
        ) from error
    manifest = parse_manifest(data, where=typed, fix=_COPY_AGAIN)
    entry = FolderEntry(
        name=folder.resolve().name,
        version=0,
        digest=sha256_bytes(data),
        manifest=manifest,
        created=datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="microseconds"),
        folder=folder,
        typed=typed,
        manifest_bytes=data,
    )
    for file in manifest["files"]:
        check_publishable(file["path"])
        _check_size(entry, file["path"], file["size"])
    return entry


def folder_file(entry: FolderEntry, path: str) -> Path:
    """Where a file of the entry lies.

    Raises:
        VerificationError: It is a link that leads out of the folder: its bytes are somebody else's.
    """
    found = entry.folder / path
    if not found.resolve().is_relative_to(entry.folder.resolve()):
        raise VerificationError(f"{path} leads out of the folder", where=str(found), fix=_NO_LINKS)
    return found


def read_folder_file(entry: FolderEntry, path: str, sha256: str) -> bytes:
    """The verified bytes of one file.

    Raises:
        VerificationError: It is missing, cannot be read, or is not what the manifest says.
    """
    found = folder_file(entry, path)
    with _naming_unreadable(found, path):
        data = found.read_bytes()
    _check(found, path, sha256, sha256_bytes(data))
    return data


def verified_folder_file(entry: FolderEntry, path: str, sha256: str) -> Path:
    """Where one file lies, its bytes verified: for those too large to hold in memory.

    Raises:
        VerificationError: It is missing, cannot be read, or is not what the manifest says.
    """
    found = folder_file(entry, path)
    with _naming_unreadable(found, path):
        digest = sha256_file(found)
    _check(found, path, sha256, digest)
    return found


@contextmanager
def _naming_unreadable(found: Path, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VerificationError(
            f"{path} cannot be read", where=str(found), why=error.strerror, fix=_COPY_AGAIN
        ) from error


def _check(found: Path, path: str, sha256: str, digest: str) -> None:
    if digest != sha256:
        why = f"expected sha256:{sha256[:12]}…, found sha256:{digest[:12]}…"
        raise VerificationError(f"{path} is corrupt", where=str(found), why=why, fix=_COPY_AGAIN)


def _check_size(entry: FolderEntry, path: str, size: int) -> None:
    found = folder_file(entry, path)
    if not found.is_file():
        raise VerificationError(f"{path} is missing", where=str(found), fix=_COPY_AGAIN)
    if (there := found.stat().st_size) != size:
        why = f"expected {size:,} bytes, found {there:,}"
        raise VerificationError(f"{path} is corrupt", where=str(found), why=why, fix=_COPY_AGAIN)
