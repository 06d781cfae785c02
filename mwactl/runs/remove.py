"""Remove a run: its log, its checkpoint, its curves. What it published stays in the registry."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from mwactl.errors import ResourceError
from mwactl.files import naming_write_errors
from mwactl.runs.folder import LOCK_FILE
from mwactl.runs.run import Run

_REMOVED = ".removed-"


def remove_run(run: Run) -> None:
    """Remove a run's folder: at once out of sight, then file by file; leftovers of a killed removal go too.

    Raises:
        ResourceError: It is running, or this user may not.
    """
    folder = run.folder
    with naming_write_errors(folder):
        lock = FileLock(folder / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ResourceError(
                "this run is running; nothing was removed", where=str(folder), fix="stop it first, with Ctrl-C"
            ) from error
        try:
            _sweep(folder.parent)
            folder.rename(folder.with_name(f"{_REMOVED}{folder.name}"))
        finally:
            lock.release()
        _sweep(folder.parent)


def _sweep(runs: Path) -> None:
    for removed in runs.glob(f"{_REMOVED}*"):
        if removed.is_symlink():
            removed.unlink()
        else:
            shutil.rmtree(removed)
