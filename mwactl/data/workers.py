"""How many pictures are read at once."""

from __future__ import annotations

import os

_MOST_WORKERS = 8


def worker_count(requested: int | None) -> int:
    """As many workers as asked for, else one for each core this process may use, at most 8."""
    if requested is not None:
        return requested
    # A job of a shared machine, or a container, may be given a few of its cores.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)
