"""Several processes publish, alias, remove and restore under one name at once, while another one reads.

    python mixed_writers_driver.py REGISTRY WRITERS ROUNDS [unlocked]

Prints what every writer knows it left behind: `{"versions": {"3": content}, "removed": […], "aliases": {alias: 3}}`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from writers_driver import no_lock

from mwactl.registry import BrokenEntry, Registry, writing


def write(root: Path, writer: int, rounds: int) -> dict[str, Any]:
    registry, alias = Registry(root), f"writer-{writer}"
    versions: dict[int, str] = {}
    removed: list[int] = []
    for number in range(rounds):
        content = f"writer {writer}, version {number}"
        files = {"adapter.safetensors": content.encode()}
        entry = registry.publish("coco", kind="adapter", files=files, facts={}, verb="train")
        if registry.read(entry, "adapter.safetensors").decode() != content:
            raise RuntimeError(f"writer {writer} was given another writer's version")
        earlier = max(versions, default=None)
        versions[entry.version] = content
        registry.alias("coco", alias, entry.version)
        if registry.resolve(f"coco:{alias}").version != entry.version:
            raise RuntimeError(f"the alias of writer {writer} leads elsewhere")
        if earlier is not None and number % 3:
            registry.remove(registry.locate(f"coco@{earlier}"))
            if number % 3 == 2:
                registry.restore("coco", earlier)
            else:
                removed.append(earlier)
                del versions[earlier]
    return {"versions": versions, "removed": removed, "aliases": {alias: max(versions)}}


def read(root: Path, children: list[int]) -> int:
    """Look at everything until the writers are done; the number of writers that failed."""
    failed = 0
    while children:
        registry = Registry(root)
        broken = [entry for entry in registry.entries() if isinstance(entry, BrokenEntry)]
        problems = registry.labels("coco").problems
        if broken or problems:
            raise RuntimeError(f"a reader saw something half-made: {broken} {problems}")
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            children.remove(pid)
            failed += status != 0
    return failed


def main(root: Path, writers: int, rounds: int, unlocked: bool) -> None:
    if unlocked:
        writing._locked = no_lock
    reports = [root.parent / f"writer-{writer}.json" for writer in range(writers)]
    children = []
    for writer, report in enumerate(reports):
        child = os.fork()
        if child == 0:
            report.write_text(json.dumps(write(root, writer, rounds)))
            os._exit(0)
        children.append(child)
    failed = read(root, children)
    known = [json.loads(report.read_text()) for report in reports]
    json.dump(known, sys.stdout)
    sys.exit(failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "unlocked" in sys.argv[4:])
