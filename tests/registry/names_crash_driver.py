"""Kill a change of aliases, tags or versions before and after every system call it makes, and look at what is left.

    python names_crash_driver.py DIRECTORY SCENARIO [sabotage]

Prints `{"calls": …, "kills": …, "failures": […]}`. `sabotage` writes aliases and tags in place.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crash_driver import dies_at

from mwactl.errors import NotFoundError
from mwactl.registry import Entry, Registry, aliases, tags

CONTENTS = {1: b"first", 2: b"second", 3: b"third"}


def start(registry: Registry) -> None:
    for content in CONTENTS.values():
        registry.publish("coco", kind="adapter", files={"adapter.safetensors": content}, facts={}, verb="train")
    registry.alias("coco", "prod", 1)
    registry.tag(registry.resolve("coco@1"), {"reviewed-by": "ann", "split": "val"})
    registry.remove(registry.resolve("coco@3"))


def remove(registry: Registry, *, force: bool) -> None:
    with_retry(lambda: registry.remove(registry.locate("coco@1" if force else "coco@2"), force=force))


def with_retry(action: Callable[[], Any]) -> None:
    """The same command again: that the first had done its work before it was killed is no failure."""
    try:
        action()
    except NotFoundError as error:
        if "was removed" not in str(error) and "was not removed" not in str(error) and "no alias" not in str(error):
            raise


SCENARIOS: dict[str, Callable[[Registry], Any]] = {
    "new alias": lambda registry: registry.alias("coco", "best", 2),
    "moved alias": lambda registry: registry.alias("coco", "prod", 2),
    "deleted alias": lambda registry: with_retry(lambda: registry.alias("coco", "prod", None)),
    "tag": lambda registry: registry.tag(registry.resolve("coco@1"), {"split": "test", "more": "x"}),
    "rm": lambda registry: remove(registry, force=False),
    "rm with alias": lambda registry: remove(registry, force=True),
    "undo": lambda registry: with_retry(lambda: registry.restore("coco", 3)),
}


def state(registry: Registry) -> dict[str, Any]:
    """All that a reader sees; anything half-made raises."""
    found = registry.entries()
    assert all(isinstance(entry, Entry) for entry in found), f"half-made: {found}"
    for entry in found:
        assert isinstance(entry, Entry)
        assert registry.read(entry, "adapter.safetensors") == CONTENTS[entry.version]
    assert not (problems := registry.labels("coco").problems), f"half-made: {problems}"
    assert [path.name for path in (registry.root / "refs/coco/aliases").iterdir()] == list(registry.aliases("coco"))
    return {
        "versions": sorted(entry.version for entry in found),
        "aliases": {alias: version for alias, (version, _) in registry.aliases("coco").items()},
        "tags": registry.tags("coco"),
    }


def check(root: Path, scenario: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """The old state or the new one, or (with an alias) the alias gone and the version not yet; then the same again."""
    registry = Registry(root)
    found = state(registry)
    between = [before | {"aliases": after["aliases"]}] if scenario == "rm with alias" else []
    assert found in [before, after, *between], f"neither old nor new: {found}"
    SCENARIOS[scenario](registry)
    assert state(registry) == after, "the same again did not lead there"
    later = registry.publish("coco", kind="adapter", files={}, facts={"later": True}, verb="train")
    assert later.version == 4, "a number was given twice, or skipped"


def survive(first: Path, root: Path, scenario: str, moment: int) -> bool:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(first, root)
    return dies_at(moment, lambda: SCENARIOS[scenario](Registry(root)))


class InPlace:
    """Stands for `staged`, and writes the target itself when it is replaced."""

    def __init__(self, root: Path, source: bytes) -> None:
        self.path, self._source = self, source

    def __enter__(self) -> InPlace:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def replace(self, target: Path) -> None:
        target.unlink(missing_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, self._source)
        os.close(descriptor)


def main(directory: Path, scenario: str, sabotage: bool) -> None:
    first, root = directory / "start", directory / "registry"
    start(Registry(first))
    before = state(Registry(first))
    shutil.copytree(first, root)
    SCENARIOS[scenario](Registry(root))
    after = state(Registry(root))
    assert before != after
    if sabotage:
        for module in (aliases, tags):
            module.staged = InPlace  # type: ignore[attr-defined]
    failures, kills, moment = [], 0, 0
    while True:
        if survive(first, root, scenario, moment):
            kills += 1
            try:
                check(root, scenario, before, after)
            except Exception as error:
                failures.append(f"moment {moment}: {error!r}")
        elif moment % 3 == 0:  # there was no call with this number: the command is over
            break
        moment += 1
    json.dump({"calls": moment // 3, "kills": kills, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "sabotage" in sys.argv[3:])
