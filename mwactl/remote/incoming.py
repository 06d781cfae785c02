"""Where bytes wait until all of them have come: `incoming` in the cache, a file a blob, one pull at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mwactl import home
from mwactl.errors import ResourceError
from mwactl.files import naming_write_errors
from mwactl.progress import Reporter

LOCK_TIMEOUT_S = 600.0
"""How long a pull waits for another one, in seconds: about as long as a large one takes."""

_SILENT_WAIT_S = 2.0
#: A download that nobody came back for in a week is not missed.
_FORGOTTEN_AFTER_S = 7 * 86_400


@contextmanager
def incoming(reporter: Reporter) -> Iterator[Path]:
    """The folder where downloads wait, for one process at a time; old ones that nobody finished go first.

    Raises:
        ResourceError: Another pull goes on for too long, or the folder cannot be written.
    """
    from filelock import FileLock  # in here: a push needs none

    folder = home.cache_path() / "incoming"
    with naming_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            try:
                lock.acquire(timeout=min(_SILENT_WAIT_S, LOCK_TIMEOUT_S))
            except TimeoutError:
                reporter.info(f"waiting for another pull (up to {LOCK_TIMEOUT_S:.0f} s)")
                lock.acquire(timeout=LOCK_TIMEOUT_S)
        except TimeoutError as error:
            raise ResourceError(
                "another pull is going on",
                where=str(folder),
                why=f"it did not end within {LOCK_TIMEOUT_S:.0f} s",
                fix="type the same command again when it has ended (a killed one holds no lock)",
            ) from error
    try:
        _forget_old(folder)
        yield folder
    finally:
        lock.release()


def clear(folder: Path, names: Iterable[str]) -> None:
    """Remove what has arrived in the registry."""
    for name in names:
        with suppress(FileNotFoundError):
            (folder / name).unlink()


def _forget_old(folder: Path) -> None:
    limit = time.time() - _FORGOTTEN_AFTER_S
    for path in folder.iterdir():
        if path.name != "lock" and path.is_file() and path.stat().st_mtime < limit:
            path.unlink(missing_ok=True)
