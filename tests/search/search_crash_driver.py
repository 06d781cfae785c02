"""Kill a writer of embeddings before, after and in every system call it makes, run it again, and compare.

    python search_crash_driver.py DIRECTORY embed|index|delete|compact [sabotage]

Prints `{"calls": …, "kills": …, "failures": […]}`. What must hold: after the kill the collection opens, with every row
that was there before; after the same command once more every file has the bytes that an undisturbed run gives.
`sabotage` writes the manifest in place, to show that a wrong protocol is caught.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import filelock  # noqa: F401  (before the fork: an import in the child would be counted)
import numpy as np
import usearch.index  # noqa: F401

sys.path.insert(1, str(Path(__file__).parents[1] / "registry"))
from conftest import FakeEncoder, paint
from crash_driver import dies_at

from mwactl.search import EmbedOptions, build_index, compact, delete_ids, embed, manifest, open_index

OPTIONS = EmbedOptions(rows_per_part=2, batch_size=2)
DELETED = "2.png"


class Scene:
    """A collection of four pictures; one that changed, one that is damaged and two more wait to be embedded."""

    def __init__(self, directory: Path, scenario: str) -> None:
        self.scenario, self.pictures = scenario, directory / "pictures"
        self.start, self.whole, self.root = (directory / name for name in ("start", "whole", "killed"))
        for i in range(4):
            paint(self.pictures / f"{i}.png", (50 * i, 90, 10))
        embed(self.start, FakeEncoder(), [self.pictures], reference="fake@1", options=OPTIONS)
        for i in (1, 5, 6, 7):
            os.utime(paint(self.pictures / f"{i}.png", (20 * i, 10, 90)), ns=(i, i))
        (self.pictures / "6.png").write_bytes(b"damaged")
        os.utime(self.pictures / "6.png", ns=(6, 6))
        if scenario == "compact":
            delete_ids(self.start, [DELETED])
        if scenario in ("compact", "index"):
            build_index(self.start, kind="approximate", threads=1)
        if scenario == "index":  # the old generation is removed, too
            embed(self.start, FakeEncoder(), [self.pictures], reference="fake@1", options=OPTIONS)
        self.before = alive(self.start)
        shutil.copytree(self.start, self.whole)
        self.act(self.whole)

    def act(self, root: Path) -> None:
        if self.scenario == "embed":
            embed(root, FakeEncoder(), [self.pictures], reference="fake@1", options=OPTIONS)
        elif self.scenario == "index":
            build_index(root, kind="approximate", threads=1)
        elif self.scenario == "delete":
            delete_ids(root, [DELETED])
        else:
            compact(root, rows_per_part=3)

    def check(self) -> None:
        now = alive(self.root)
        if self.scenario == "embed":
            assert self.before.keys() <= now.keys(), "a row was lost"
        elif self.scenario == "delete":
            assert now.keys() in (self.before.keys(), self.before.keys() - {DELETED})
        else:
            assert now == self.before, "a row was lost, or has another vector"
        self.act(self.root)
        found, expected = contents(self.root), contents(self.whole)
        different = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
        assert not different, f"not as without the kill: {sorted(different)}"


def alive(root: Path) -> dict[str, bytes]:
    """What can be found: ids and their vectors."""
    index = open_index(root)
    rows = np.flatnonzero(index.alive)
    vectors = index.vectors(rows)
    if len(rows):
        index.search(vectors[:1], 1)
    return {index.item(int(row)).id: vector.tobytes() for row, vector in zip(rows, vectors, strict=True)}


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.name != "lock"}


def write_in_place(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, data)
    os.close(descriptor)


def main(directory: Path, scenario: str, sabotage: bool) -> None:
    scene = Scene(directory, scenario)
    if sabotage:
        manifest.atomic_write = write_in_place  # type: ignore[attr-defined]
    failures, kills, moment = [], 0, 0
    while True:
        shutil.rmtree(scene.root, ignore_errors=True)
        shutil.copytree(scene.start, scene.root)
        if dies_at(moment, lambda: scene.act(scene.root)):
            kills += 1
            try:
                scene.check()
            except Exception as error:
                failures.append(f"moment {moment}: {error}")
                if sabotage:
                    break
        elif moment % 3 == 0:  # there was no call with this number: the work is over
            break
        moment += 1
    json.dump({"calls": moment // 3, "kills": kills, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "sabotage" in sys.argv[3:])
