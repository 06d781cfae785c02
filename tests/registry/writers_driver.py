"""Several processes publish under one name at once.

python writers_driver.py REGISTRY WRITERS VERSIONS_EACH [unlocked]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mwactl.registry import Registry, writing


@contextmanager
def no_lock(*_: Any) -> Iterator[None]:
    """What a lock is on a file system that only pretends to have locks."""
    yield


def write(root: Path, writer: int, versions: int) -> None:
    registry = Registry(root)
    for version in range(versions):
        content = f"writer {writer}, version {version}".encode()
        entry = registry.publish("coco", kind="adapter", files={"adapter.safetensors": content}, facts={}, verb="train")
        if registry.read(entry, "adapter.safetensors") != content:
            raise RuntimeError(f"writer {writer} was given another writer's version")


def main(root: Path, writers: int, versions: int, unlocked: bool) -> None:
    if unlocked:
        writing._locked = no_lock
    children = []
    for writer in range(writers):
        child = os.fork()
        if child == 0:
            write(root, writer, versions)
            os._exit(0)
        children.append(child)
    sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "unlocked" in sys.argv[4:])
