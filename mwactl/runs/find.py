"""Runs by name."""

from __future__ import annotations

from pathlib import Path

from mwactl.errors import NotFoundError, UsageError
from mwactl.home import runs_path
from mwactl.progress import Reporter, Silent
from mwactl.runs.folder import LOG_FILE, RECIPE_FILE
from mwactl.runs.run import Run, read_run

_MOST_NAMED = 4


def run_folders() -> list[Path]:
    """The folders of all runs, by name; hidden ones are none."""
    root = runs_path()
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def all_runs(reporter: Reporter | None = None) -> list[Run]:
    """All runs, the one that changed last first; of those that may not be read `reporter` is told."""
    runs = []
    for folder in run_folders():
        try:
            runs.append(read_run(folder))
        except OSError as error:
            (reporter or Silent()).warn(f"the run {folder.name} cannot be read: {error.filename}: {error.strerror}")
    return sorted(runs, key=lambda run: (run.changed, run.id), reverse=True)


def find_run(name: str) -> Run:
    """A run by its folder's name, a beginning of it that no other shares, or its folder.

    Raises:
        NotFoundError: There is none.
        UsageError: Several begin so.
    """
    if "/" in name:
        folder = Path(name).expanduser()
        if not any((folder / file).is_file() for file in (LOG_FILE, RECIPE_FILE)):
            raise NotFoundError("no run is in this folder", where=name, fix="mwactl runs list")
        return read_run(folder.resolve())
    folders = run_folders()
    found = [path for path in folders if path.name == name] or [path for path in folders if path.name.startswith(name)]
    if not found:
        raise NotFoundError(f"no run {name!r}", where=str(runs_path()), fix="mwactl runs list")
    if len(found) > 1:
        newest = max(map(read_run, found), key=lambda run: run.changed)
        named = ", ".join(path.name for path in found[:_MOST_NAMED]) + (", …" if len(found) > _MOST_NAMED else "")
        raise UsageError(f"{len(found)} runs begin with {name!r}", why=named, fix=f"{newest.id} is the newest")
    return read_run(found[0])
