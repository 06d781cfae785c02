"""Kill a build of the picture cache before, after and in every system call it makes, build again, and look.

    python cache_crash_driver.py DIRECTORY [sabotage]

Prints `{"calls": …, "kills": …, "counts": […], "failures": […]}`. What must hold: after the kill every picture that the
cache shows is right and no part is half there; the same build then makes only what was missing, and leaves nothing
behind. `counts` are the pictures that were there after each kill, in the order of time. `sabotage` writes indices in
place, to show that a wrong protocol is caught, and ends when it was.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(1, str(Path(__file__).parents[1] / "registry"))
from crash_driver import dies_at

from mwactl.data import cache as cache_module
from mwactl.data import cache_part
from mwactl.data.cache import PictureCache
from mwactl.data.geometry import for_random_crops
from mwactl.files import sha256_file

PICTURES = 3
cache_module.PICTURES_IN_A_PART = 2


class Listener:
    """A reporter whose every step is a system call, so that a kill can come between two pictures, too."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def progress(self, label: str, total: int, *, done: int = 0) -> Listener:
        return self

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        os.close(os.open(os.devnull, os.O_RDONLY))

    def close(self) -> None:
        pass


def write_in_place(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, data)
    os.close(descriptor)


def check(images: list[Path], digests: list[str], expected: list[bytes]) -> int:
    """What must hold after any kill; gives how many pictures were there."""
    listener = Listener()
    cache = PictureCache(for_random_crops((8, 8), 1.0), reporter=listener)
    there = cache.open(images, digests)
    assert [there(index).tobytes() for index in range(PICTURES)] == expected, "a picture is wrong"
    made = cache.build("tiny", images, digests, workers=1)
    assert made == PICTURES - there.count, f"{there.count} were there, {made} were made again"
    assert not listener.warnings, f"half-made: {listener.warnings}"
    whole = cache.open(images, digests)
    assert whole.count == PICTURES
    assert [whole(index).tobytes() for index in range(PICTURES)] == expected, "a picture is wrong after the build"
    names = [path for path in cache.folder.iterdir() if path.suffix not in (".rgb", ".json") and path.name != "lock"]
    assert not names, f"left behind: {names}"
    assert len(list(cache.folder.glob("*.rgb"))) == len(list(cache.folder.glob("*.json")))
    return there.count


def main(directory: Path, sabotage: bool) -> None:
    os.environ["MWACTL_HOME"] = str(directory / "home")
    rng = np.random.default_rng(0)
    images = [directory / f"{number}.png" for number in range(PICTURES)]
    for path in images:
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    digests = [sha256_file(path) for path in images]
    geometry = for_random_crops((8, 8), 1.0)
    expected = [geometry(Image.open(path)).tobytes() for path in images]
    assert geometry.digest  # before the fork: an import in the child would be counted
    if sabotage:
        cache_part.atomic_write = write_in_place

    def build() -> None:
        PictureCache(geometry, reporter=Listener()).build("tiny", images, digests, workers=1)

    failures, counts, moment = [], [], 0
    while True:
        shutil.rmtree(directory / "home", ignore_errors=True)
        if dies_at(moment, build):
            try:
                counts.append(check(images, digests, expected))
            except Exception as error:
                failures.append(f"moment {moment}: {type(error).__name__}: {error}")
                if sabotage:
                    break
        elif moment % 3 == 0:  # there was no call with this number: the build is over
            break
        moment += 1
    kills = len(counts) + len(failures)
    json.dump({"calls": moment // 3, "kills": kills, "counts": counts, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "sabotage" in sys.argv[2:])
