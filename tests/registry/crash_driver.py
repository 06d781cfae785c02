"""Kill a write to a registry before and after every system call it makes, and look at what is left.

    python crash_driver.py DIRECTORY first|next|attach [sabotage]

Prints `{"calls": …, "kills": …, "failures": […]}`. `sabotage` writes version pointers in place, to show that a wrong
protocol is caught. Imports the registry only, and forks, so that some hundred kills take seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mwactl.registry import BrokenEntry, Registry, numbered

CALLS = ("open", "write", "fsync", "replace", "rename", "link", "unlink", "chmod", "close", "utime", "mkdir")
OLD, NEW = b"old tensors", b"new tensors" * 50


def publish(registry: Registry, data: bytes) -> None:
    files = {"adapter.safetensors": data, "card.md": data[:3]}
    registry.publish("coco", kind="adapter", files=files, facts={"method": {"name": "mwa"}}, verb="train")


def attach(registry: Registry) -> None:
    registry.attach(registry.resolve("coco@1"), "evaluation", {"rsum": 500.0})


def kill_at(moment: int) -> None:
    """From now on this process dies at a moment: 3k before call k, 3k + 1 after it, 3k + 2 in the middle of it."""
    calls = 0

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            index, calls = calls, calls + 1
            if moment == 3 * index:
                os.kill(os.getpid(), signal.SIGKILL)
            if moment == 3 * index + 2 and name == "write":
                call(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*args, **kwargs)
            finally:
                if moment == 3 * index + 1:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))


def dies_at(moment: int, action: Callable[[], object]) -> bool:
    """Do it in a child that dies at a moment; return whether it did, or had finished before."""
    child = os.fork()
    if child == 0:
        kill_at(moment)
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"it failed by itself at moment {moment}")
    return os.WIFSIGNALED(status)


def write_in_place(target: Path, content: Path) -> bool:
    if target.exists():
        return False
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, content.read_bytes())
    os.close(descriptor)
    return True


def check(root: Path, scenario: str) -> None:
    """What must hold after any kill: the old is whole, the new is whole or absent, and the next write succeeds."""
    registry = Registry(root)
    entries = registry.entries()
    assert not [entry for entry in entries if isinstance(entry, BrokenEntry)], f"half-made: {entries}"
    versions = sorted(entry.version for entry in entries)
    allowed = {"first": ([], [1]), "next": ([1], [1, 2]), "attach": ([1],)}[scenario]
    assert versions in allowed, f"versions {versions}"
    contents = {1: NEW if scenario == "first" else OLD, 2: NEW}
    for entry in entries:
        assert registry.read(entry, "adapter.safetensors") == contents[entry.version]
        assert registry.read(entry, "card.md") == contents[entry.version][:3]
        assert not [attachment for attachment in registry.attachments(entry) if "problem" in attachment]
    run(registry, scenario)
    newest = registry.resolve("coco")
    assert newest.version == (2 if scenario == "next" else 1), "the next write did not repeat this one"
    assert registry.read(newest, "adapter.safetensors") == (OLD if scenario == "attach" else NEW)
    assert len(registry.attachments(newest)) == (1 if scenario == "attach" else 0)


def run(registry: Registry, scenario: str) -> None:
    if scenario == "attach":
        attach(registry)
    else:
        publish(registry, NEW)


def survive(start: Path, root: Path, scenario: str, moment: int) -> bool:
    """Copy the start, write in a child that dies at `moment`; return whether it did."""
    shutil.rmtree(root, ignore_errors=True)
    if start.exists():
        shutil.copytree(start, root)
    return dies_at(moment, lambda: run(Registry(root), scenario))


def main(directory: Path, scenario: str, sabotage: bool) -> None:
    start, root = directory / "start", directory / "registry"
    if scenario != "first":
        publish(Registry(start), OLD)
    if sabotage:
        numbered._create = write_in_place
    failures, kills, moment = [], 0, 0
    while True:
        if survive(start, root, scenario, moment):
            kills += 1
            try:
                check(root, scenario)
            except Exception as error:
                failures.append(f"moment {moment}: {error}")
        elif moment % 3 == 0:  # there was no call with this number: the write is over
            break
        moment += 1
    json.dump({"calls": moment // 3, "kills": kills, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "sabotage" in sys.argv[3:])
