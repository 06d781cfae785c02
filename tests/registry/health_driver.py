"""Kill gc and repair before and after every system call they make, and look at what is left.

    python health_driver.py DIRECTORY gc|repair [sabotage]

Prints `{"calls": …, "kills": …, "failures": […]}`. `sabotage` repairs files in place, to show that this is caught.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from crash_driver import NEW, OLD, dies_at

from mwactl.registry import BrokenEntry, Entry, Registry, verify
from mwactl.registry.gc import apply_gc, plan_gc
from mwactl.registry.verify import repair

ROT = b"rotten to the core"


def publish(registry: Registry, data: bytes) -> Entry:
    return registry.publish("coco", kind="adapter", files={"adapter.safetensors": data}, facts={}, verb="train")


def make(root: Path, scenario: str) -> None:
    registry = Registry(root)
    kept, removed = publish(registry, OLD), publish(registry, NEW)
    for entry in (kept, removed):
        registry.attach(entry, "evaluation", {"rsum": entry.version})
    registry.alias("coco", "prod", 1)
    registry.tag(kept, {"split": "val"})
    if scenario == "gc":
        registry.remove(removed)
        (root / "tmp" / "left.part").write_bytes(b"half")
        registry._blobs.put(b"never published")
        return
    refs, stray = root / "refs/coco", registry._blobs.put(b"never published")[0]
    for path in (refs / "versions/2", refs / "tags.json", registry._blobs.path(stray)):
        path.chmod(0o644)
        path.write_bytes(ROT)
    with (refs / "log.jsonl").open("ab") as log:
        log.write(b'{"half":')


def run(registry: Registry, scenario: str) -> None:
    if scenario == "gc":
        apply_gc(registry, plan_gc(registry, 0.0))
    else:
        repair(registry, verify.verify(registry))


def check(root: Path, scenario: str) -> None:
    """What must hold after any kill: nothing needed is lost, and running it once more does the rest."""
    registry = Registry(root)
    if scenario == "gc":
        assert not verify.verify(registry).faults, "a fault after the kill"
    else:
        held = sum(path.read_bytes() == ROT for path in root.rglob("*") if path.is_file())
        assert held >= 3, "a damaged file is gone without a copy"
    run(registry, scenario)
    assert not verify.verify(registry).faults, "a fault after the second run"
    entries = registry.entries()
    assert not [entry for entry in entries if isinstance(entry, BrokenEntry)]
    assert [entry.version for entry in entries] == ([1] if scenario == "gc" else [2, 1])
    assert registry.resolve("coco:prod").version == 1
    assert registry.tags("coco") == {1: {"split": "val"}}
    assert registry.read(registry.resolve("coco@1"), "adapter.safetensors") == OLD
    assert [item["document"] for item in registry.attachments(registry.resolve("coco@1"))] == [{"rsum": 1}]
    if scenario == "gc":
        assert not plan_gc(registry, 0.0).doomed, "something was left"
        assert len(list((root / "blobs").glob("sha256/*/*"))) == 3
    assert publish(registry, b"newer").version == 3, "the next publication failed"


def survive(start: Path, root: Path, scenario: str, moment: int) -> bool:
    """Copy the start, run in a child that dies at `moment`; return whether it did."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(start, root)
    return dies_at(moment, lambda: run(Registry(root), scenario))


def main(directory: Path, scenario: str, sabotage: bool) -> None:
    start, root = directory / "start", directory / "registry"
    make(start, scenario)
    if sabotage:
        verify._write = lambda root, fault: os.close(os.open(fault.file, os.O_TRUNC | os.O_CREAT | os.O_WRONLY))
    failures, kills, moment = [], 0, 0
    while True:
        if survive(start, root, scenario, moment):
            kills += 1
            try:
                check(root, scenario)
            except Exception as error:
                failures.append(f"moment {moment}: {error}")
        elif moment % 3 == 0:
            break
        moment += 1
    json.dump({"calls": moment // 3, "kills": kills, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "sabotage" in sys.argv[3:])
