"""Several processes publish, attach and remove under one name while this one collects garbage all the time.

    python gc_beside_writers.py REGISTRY WRITERS VERSIONS_EACH locked|unlocked GRACE_S

Prints `{"gc": how often it ran, "failed": how many writers failed}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mwactl.errors import MwactlError
from mwactl.registry import Registry, writing
from mwactl.registry.gc import apply_gc, plan_gc


@contextmanager
def no_lock(*_: Any) -> Iterator[bool]:
    """What a lock is on a file system that only pretends to have locks."""
    yield True


def publish(registry: Registry, content: bytes) -> Any:
    return registry.publish("coco", kind="adapter", files={"adapter.safetensors": content}, facts={}, verb="train")


def write(root: Path, writer: int, versions: int) -> None:
    registry = Registry(root)
    for version in range(versions):
        content = f"writer {writer}, version {version}".encode()
        registry.remove(publish(registry, b"removed " + content))
        entry = publish(registry, content)
        registry.attach(entry, "evaluation", {"rsum": version})
        if registry.read(entry, "adapter.safetensors") != content:
            raise RuntimeError("other content")


def collect(root: Path, grace_s: float) -> None:
    registry = Registry(root)
    try:
        apply_gc(registry, plan_gc(registry, grace_s))
    except MwactlError as error:  # a plan that is made without the lock may see a publication in progress
        print(error, file=sys.stderr)


def main(root: Path, writers: int, versions: int, unlocked: bool, grace_s: float) -> None:
    if unlocked:
        writing._locked = no_lock
    running = set()
    for writer in range(writers):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                write(root, writer, versions)
            except BaseException:
                os._exit(1)
            os._exit(0)
        running.add(child)
    rounds = failed = 0
    while running:
        collect(root, grace_s)
        rounds += 1
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            running.discard(ended)
            failed += status != 0
    json.dump({"gc": rounds, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "unlocked", float(sys.argv[5]))
