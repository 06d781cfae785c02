"""Pictures that could not be read: a list beside the embeddings, for whoever repairs them."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mwactl.files import atomic_write

FAILED_NAME = "failed.jsonl"


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read."""

    id: str
    place: str
    reason: str


def write_failures(folder: Path, failures: Sequence[Failure], *, seen: Collection[str]) -> None:
    """List what could not be read in this run, and of earlier runs what this one did not come across.

    Args:
        folder: The collection.
        failures: Of this run.
        seen: The ids that this run has embedded, or found as they were.

    Raises:
        ResourceError: The disk is full.
    """
    path = folder / FAILED_NAME
    listed = {failure.id: failure for failure in _read(path) if failure.id not in seen}
    listed |= {failure.id: failure for failure in failures}
    if listed or path.exists():
        lines = [json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in listed.values()]
        atomic_write(path, "".join(lines).encode("utf-8"))


def _read(path: Path) -> list[Failure]:
    try:
        return [Failure(**json.loads(line)) for line in path.read_text("utf-8").split("\n") if line]
    except (OSError, ValueError, TypeError):
        return []  # a list for people, which every run makes anew
