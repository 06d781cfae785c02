"""The log of a run: one JSON document a line, appended as things happen."""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mwactl.errors import MwactlError
from mwactl.files import naming_write_errors
from mwactl.train.track import Trackers

FILE_NAME = "log.jsonl"


class RunLog:
    """Appends events to `log.jsonl` in a run's folder, and passes them to trackers; without a folder, to nothing.

    As a context it ends the trackers, and notes the error where one ended the training.
    """

    def __init__(self, folder: Path | None, trackers: Trackers | None = None) -> None:
        self.path: Path | None = None
        self._trackers = trackers
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / FILE_NAME

    def write(self, event: str, **facts: Any) -> None:
        """Append one event. A line is written with one call, so a reader never sees half of one by much."""
        if self.path is None:
            return
        with naming_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")
        if self._trackers is not None:
            self._trackers.event(event, facts)

    def __enter__(self) -> RunLog:
        """Write as ever."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """An interruption is no failure."""
        if isinstance(error, Exception):
            with suppress(MwactlError):  # a full disk: the error that is under way is the one to tell
                self.write("failed", error=str(error))
        if self._trackers is not None:
            self._trackers.close(failed=error is not None)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: of the GPU where one computes, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
