"""The files of a folder that a user means: visible ones, at any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file whose own name and folders do not start with a dot; linked folders are followed, once.

    A folder's files come in the order of their names, before those of its folders in the order of theirs.
    """
    visited: set[str] = set()
    for directory, subdirectories, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:
            subdirectories.clear()
            continue
        visited.add(real)
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        yield from (Path(directory, name) for name in sorted(names) if not name.startswith("."))
