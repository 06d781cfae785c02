"""The log of a run: one JSON document a line, appended as things happen."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from mwactl.files import naming_write_errors

FILE_NAME = "log.jsonl"


class RunLog:
    """Appends events to `log.jsonl` in a run's folder; without a folder, to nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.path: Path | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / FILE_NAME

    def write(self, event: str, **facts: Any) -> None:
        """Append one event. A line is written with one call, so a reader never sees half of one by much."""
        if self.path is None:
            return
        with naming_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: of the GPU where one computes, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
