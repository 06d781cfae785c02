"""Kill `pack` and `unpack` before every system call they make, and within every write, and look at what is left.

    python bundle_crash_driver.py DIRECTORY pack|first|next [sabotage]

`pack` writes a bundle over an older one; `first` unpacks a version into a registry that is not there yet, `next` two
versions into one that has another. Prints `{"calls": …, "kills": …, "failures": […]}`. `sabotage` writes bundles and
version pointers in place, to show that a wrong protocol is caught.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from crash_driver import dies_at, write_in_place

from mwactl.registry import BrokenEntry, Entry, Registry, numbered
from mwactl.registry import bundle as bundle_module
from mwactl.registry.bundle import pack, plan_packing, plan_unpacking, unpack

Content = tuple[int, bytes, list[Any]]
"""A version's number, its file, and what is attached to it."""

OLD_BUNDLE = b"an older bundle"
BROUGHT: list[Content] = [(1, b"first", [{"rsum": 1.0}]), (2, b"second" * 50, [{"rsum": 2.0}])]


class Steps:
    """A reporter whose every step is a system call: what writes through a buffer can be killed in between, too."""

    def info(self, message: str) -> None:
        pass

    warn = info

    def progress(self, label: str, total: int, *, done: int = 0) -> Steps:
        return self

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        os.close(os.open(os.devnull, os.O_RDONLY))

    def close(self) -> None:
        pass


def publish(registry: Registry, data: bytes, parents: tuple[str, ...] = ()) -> Entry:
    files = {"adapter.safetensors": data}
    return registry.publish("coco", kind="adapter", files=files, facts={}, parents=parents, verb="train")


def packed(registry: Registry, references: list[str], target: Path) -> None:
    packing = plan_packing(registry, references, with_parents=False)
    pack(packing, target, replace=True, reporter=Steps())


def unpacked(registry: Registry, bundle: Path) -> None:
    unpack(registry, plan_unpacking(registry, bundle, name=None, reporter=Steps()), reporter=Steps())


def contents(registry: Registry) -> list[Content]:
    """Every version with everything in it; nothing may be half there."""
    found = []
    for entry in reversed(registry.entries()):
        assert not isinstance(entry, BrokenEntry), f"half-made: {entry}"
        attachments = registry.attachments(entry)
        assert not [attachment for attachment in attachments if "problem" in attachment]
        documents = [attachment["document"] for attachment in attachments]
        found.append((entry.version, registry.read(entry, "adapter.safetensors"), documents))
    return found


def check_unpacked(root: Path, bundle: Path, before: list[Content], brought: list[Content]) -> None:
    """What must hold after any kill: the old is whole, each new version is whole or absent, and a repetition works."""
    registry = Registry(root)
    whole = before + [(len(before) + version, *rest) for version, *rest in brought]
    assert contents(registry) in [whole[:count] for count in range(len(before), len(whole) + 1)], "half-made"
    unpacked(registry, bundle)
    assert contents(registry) == whole, "the repetition did not finish it"


def check_packed(target: Path, bundle: Path, registry: Registry) -> None:
    assert target.read_bytes() in (OLD_BUNDLE, bundle.read_bytes()), "half-made"
    packed(registry, ["coco@1", "coco@2"], target)
    assert target.read_bytes() == bundle.read_bytes()
    assert contents(registry) == BROUGHT


@contextmanager
def file_in_place(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb", buffering=0) as file:
        yield file


def main(directory: Path, scenario: str, sabotage: bool) -> None:
    source, own, root = (directory / name for name in ("source", "own", "registry"))
    registry = Registry(source)
    for _, data, documents in BROUGHT:
        entry = publish(registry, data)
        for document in documents:
            registry.attach(entry, "evaluation", document)
    publish(Registry(own), b"own")
    bundle, target = directory / "bundle.tar", directory / "out" / "target.tar"
    packed(registry, ["coco@1"] if scenario == "first" else ["coco@1", "coco@2"], bundle)
    brought, before = (BROUGHT[:1], []) if scenario == "first" else (BROUGHT, [(1, b"own", [])])
    if sabotage:
        numbered._create, bundle_module.atomic_file = write_in_place, file_in_place
    failures, kills, moment = [], 0, 0
    while True:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        target.write_bytes(OLD_BUNDLE)
        if scenario == "next":
            shutil.copytree(own, root)
        if scenario == "pack":
            died = dies_at(moment, lambda: packed(registry, ["coco@1", "coco@2"], target))
        else:
            died = dies_at(moment, lambda: unpacked(Registry(root), bundle))
        if died:
            kills += 1
            try:
                if scenario == "pack":
                    check_packed(target, bundle, registry)
                else:
                    check_unpacked(root, bundle, before, brought)
            except Exception as error:
                failures.append(f"moment {moment}: {error!r}")
        elif moment % 3 == 0:
            break
        moment += 2 if moment % 3 == 0 else 1  # after a call is before the next one
    json.dump({"calls": moment // 3, "kills": kills, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "sabotage" in sys.argv[3:])
