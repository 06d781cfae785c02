"""One writer a collection, and the leftovers of writers that were killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mwactl.errors import ResourceError, UsageError
from mwactl.files import naming_write_errors
from mwactl.search.manifest import FILE_NAME as MANIFEST
from mwactl.search.manifest import Manifest

_LOCK = "lock"
_DATA = re.compile(r"part-\d{5,}\.(vectors\.npy|rows\.jsonl)|index\.usearch\.\d+")
_TEMPORARY = re.compile(r"\.(part-\d|index\.usearch\.|manifest\.json\.|deleted\.json\.|failed\.jsonl\.).*\.part")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of a collection. Readers need no lock: what they have read stays as it is.

    Where the work fails and leaves nothing, nothing of the folder and the lock in it is left either.

    Raises:
        ResourceError: Another process is writing, or this user may not write there.
    """
    from filelock import FileLock, Timeout  # in here: a search needs none

    with naming_write_errors(folder):
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ResourceError(
                "another process is writing these embeddings",
                where=str(folder),
                why="mwactl embed and mwactl index take turns",
                fix="wait for it to end, and run the command again",
            ) from error
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another process is in the folder by now, or it is gone
            if [path.name for path in folder.iterdir()] == [_LOCK]:
                (folder / _LOCK).unlink()  # while it is held: who waits for it notices
                if new:
                    folder.rmdir()
        raise
    finally:
        lock.release()


def remove_leftovers(folder: Path, manifest: Manifest | None) -> None:
    """Remove files of ours that the manifest does not list: what was written when a writer was killed."""
    parts = manifest.parts if manifest else []
    listed = {name for part in parts for name in (part.vectors_name, part.items_name)}
    if manifest and manifest.graph:
        listed.add(manifest.graph.name)
    for path in _files(folder):
        ours = _DATA.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name)
        if ours and path.name not in listed:
            path.unlink(missing_ok=True)


def check_empty(folder: Path) -> None:
    """Look whether a new collection may be made in a folder: nobody else's files are in it.

    Raises:
        UsageError: There are some.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != _LOCK and not _DATA.fullmatch(path.name) and not _TEMPORARY.fullmatch(path.name):
            raise UsageError(
                "the folder for the embeddings holds other things",
                where=str(folder),
                why=f"there is {path.name}, and no {MANIFEST}",
                fix="give -o a new folder",
            )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]
