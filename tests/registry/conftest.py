"""A registry in a temporary directory, and a short way to publish."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.registry import Entry, Registry


@pytest.fixture
def registry(memory_disk: Path) -> Registry:
    return Registry(memory_disk / "registry")


@pytest.fixture
def publish(registry: Registry) -> Callable[..., Entry]:
    """publish(name, data, parents=…, **facts): one file, `adapter.safetensors`."""

    def publish_one(name: str = "coco", data: bytes = b"tensors", parents: tuple[str, ...] = (), **facts: Any) -> Entry:
        defaults = {"method": {"name": "mwa"}, "base": {"backbone": "tiny"}, "metrics": []}
        return registry.publish(
            name,
            kind="adapter",
            files={"adapter.safetensors": data},
            facts=defaults | facts,
            parents=parents,
            verb="train",
        )

    return publish_one


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[int, int, int]]]:
    """Everything below a directory with inode, size and time: equal before and after means nothing was written."""

    def take(root: Path) -> dict[str, tuple[int, int, int]]:
        stats = {str(path.relative_to(root)): path.stat() for path in [root, *root.rglob("*")]}
        return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}

    return take


@pytest.fixture
def drive() -> Callable[..., str]:
    """drive(program, argument…): run one of the programs beside these tests, which fork and kill; gives its stdout."""

    def run(program: str, *arguments: str | Path) -> str:
        command = [sys.executable, Path(__file__).parent / program, *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run
