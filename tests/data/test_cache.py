from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from mwactl.data import cache as cache_module
from mwactl.data.cache import CachePlan, PictureCache, remove_cached
from mwactl.data.geometry import Geometry
from mwactl.data.picture import open_image
from mwactl.errors import DataError, ExitCode, Interrupted, ResourceError
from mwactl.files import sha256_file
from mwactl.progress import Silent

DRIVER = Path(__file__).with_name("cache_crash_driver.py")
SIDE = 6


def squeeze(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


SQUARE = Geometry(squeeze, "a square of 6")
HALF = Geometry(lambda picture: picture.reduce(2), "half as large")
MIRROR = Geometry(ImageOps.mirror, "mirrored")


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.heard = threading.Event()

    def info(self, message: str) -> None:
        self.said.append(message)
        self.heard.set()

    warn = info


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "PICTURES_IN_A_PART", 3)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Eight noisy pictures of several shapes; the last two have the same bytes."""
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for number, path in enumerate(paths):
        draw_into(path, min(number, 6))
    return paths


def draw_into(path: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (10 + number, 14, 3), np.uint8)).save(path)


def digests(images: Sequence[Path]) -> list[str]:
    return [sha256_file(path) for path in images]


def build(images: Sequence[Path], geometry: Geometry = SQUARE, *, name: str = "tiny", **options: Any) -> int:
    reporter = options.pop("reporter", None)
    return PictureCache(geometry, reporter=reporter).build(name, images, digests(images), **options)


def parts(geometry: Geometry = SQUARE, ending: str = "json") -> list[Path]:
    return sorted(PictureCache(geometry).folder.glob(f"[!.]*.{ending}"))


@pytest.fixture
def served(images: list[Path]) -> Callable[..., int]:
    """Check that every picture is what the geometry makes of its file; give how many came from the cache."""

    def check(geometry: Geometry = SQUARE, reporter: Any = None) -> int:
        cached = PictureCache(geometry, reporter=reporter).open(images, digests(images))
        for index, path in enumerate(images):
            expected = geometry(open_image(path))
            assert (cached(index).size, cached(index).tobytes()) == (expected.size, expected.tobytes())
        return cached.count

    return check


@pytest.mark.parametrize("geometry", [SQUARE, HALF, MIRROR], ids=lambda geometry: geometry.description)
def test_the_cache_gives_the_very_pixels_that_the_geometry_gives(images, served, geometry: Geometry):
    assert served(geometry) == 0
    build(images, geometry)
    assert served(geometry) == 8


def test_each_different_picture_is_kept_once_in_parts_of_a_few(images, served):
    assert build(images) == 7
    assert [len(json.loads(path.read_bytes().partition(b"\n")[2])["pictures"]) for path in parts()] in (
        [3, 3, 1], [3, 1, 3], [1, 3, 3],
    )  # fmt: skip
    assert sum(path.stat().st_size for path in parts(ending="rgb")) == 7 * SIDE * SIDE * 3


def test_what_is_there_is_not_made_again(images):
    assert build(images) == 7
    before = {path: path.stat().st_mtime_ns for path in parts() + parts(ending="rgb")}
    assert build(images) == 0
    assert build(images[2:5], name="another data set") == 0
    assert {path: path.stat().st_mtime_ns for path in parts() + parts(ending="rgb")} == before


def test_any_number_of_threads_writes_the_same_bytes(images):
    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in parts() + parts(ending="rgb")}

    build(images, workers=1)
    one = content()
    remove_cached("tiny")
    build(images, workers=3)
    assert content() == one


def test_a_file_that_changed_is_another_picture_and_the_others_are_kept(images, served):
    build(images)
    draw_into(images[1], 99)
    assert served() == 7
    assert build(images) == 1
    assert served() == 8


def test_another_geometry_has_its_own_pictures(images, served):
    build(images)
    assert served(HALF) == 0
    assert build(images, HALF) == 7
    assert served() == served(HALF) == 8


def test_a_cached_picture_does_not_need_its_file(images):
    build(images)
    known = digests(images)
    expected = squeeze(open_image(images[0])).tobytes()
    images[0].unlink()
    assert PictureCache(SQUARE).open(images, known)(0).tobytes() == expected


def test_a_plan_counts_what_is_missing_and_foretells_its_size_without_writing(images):
    cache = PictureCache(SQUARE)
    assert cache.plan(images, digests(images)) == CachePlan(7, 7, 7 * SIDE * SIDE * 3)
    assert not PictureCache.exists()
    build(images[:3])
    assert cache.plan(images, digests(images)) == CachePlan(7, 4, 4 * SIDE * SIDE * 3)
    assert PictureCache.exists()


# -- sources that are not as they were ------------------------------------------------------------------------------


def test_a_file_that_changed_behind_the_scans_back_is_an_error_that_names_it(images, served):
    """Its size and time may be what they were: the digest of the scan is then the wrong one."""
    scanned = digests(images)
    draw_into(images[4], 77)
    with pytest.raises(DataError, match="changed after it was scanned") as caught:
        PictureCache(SQUARE).build("tiny", images, scanned)
    assert str(images[4]) in str(caught.value)
    assert "fix: touch" in str(caught.value)
    assert served() in (0, 3)
    assert build(images) in (7, 4)


@pytest.mark.parametrize("damage", ["gone", "not a picture"])
def test_a_picture_that_cannot_be_read_is_an_error_that_names_it(images, damage: str):
    images[5].write_bytes(b"not a picture")
    scanned = digests(images)
    if damage == "gone":
        images[5].unlink()
    with pytest.raises(DataError, match="cannot read the picture") as caught:
        PictureCache(SQUARE).build("tiny", images, scanned)
    assert str(images[5]) in str(caught.value)
    assert not list(PictureCache(SQUARE).folder.glob(".*.part"))


def test_a_picture_that_cannot_be_resized_is_an_error_that_names_it(images):
    def fail(picture: Image.Image) -> Image.Image:
        if picture.height == 14:
            raise MemoryError("too long")
        return picture.copy()

    scanned = digests(images)
    cache = PictureCache(SQUARE)  # its digest, before the geometry fails
    cache.geometry = Geometry(fail, "fails")
    with pytest.raises(DataError, match="cannot be resized: too long") as caught:
        cache.build("tiny", images, scanned)
    assert str(images[4]) in str(caught.value)


def test_pictures_without_a_digest_must_be_left_out_first(images):
    with pytest.raises(ValueError, match="leave it out of the split"):
        PictureCache(SQUARE).build("tiny", images, [None] * 8)


# -- damage -----------------------------------------------------------------------------------------------------------


def shorten(index: Path) -> None:
    data = index.with_suffix(".rgb")
    os.truncate(data, data.stat().st_size - 1)


def lose_the_data(index: Path) -> None:
    index.with_suffix(".rgb").unlink()


def change_the_index(index: Path) -> None:
    content = index.read_bytes()
    index.write_bytes(content.replace(b'"tiny"', b'"tony"'))


def empty_the_index(index: Path) -> None:
    index.write_bytes(b"")


@pytest.mark.parametrize("damage", [shorten, lose_the_data, change_the_index, empty_the_index])
def test_a_damaged_part_is_decoded_with_a_warning_and_made_again_by_a_build(images, served, damage):
    build(images)
    part = parts()[0]
    lost = json.loads(part.read_bytes().partition(b"\n")[2])["pictures"]
    damage(part)

    reader = Listener()
    assert served(reporter=reader) < 8
    assert [message for message in reader.said if part.name in message and "decoded each time" in message]

    builder = Listener()
    assert build(images, reporter=builder) == len(lost)
    assert [message for message in builder.said if part.name in message and "made again" in message]
    after = Listener()
    assert served(reporter=after) == 8
    assert after.said == []


def test_a_kill_at_any_system_call_loses_at_most_the_part_in_work():
    report = crash()
    assert report["failures"] == []
    assert report["calls"] >= 50
    assert report["kills"] >= 2 * report["calls"]
    assert report["counts"] == sorted(report["counts"]), "what was finished was lost"
    assert set(report["counts"]) == {0, 2, 3}, "a part was there in part"


def test_the_kills_catch_an_index_that_is_written_in_place():
    assert any("half-made" in failure for failure in crash("sabotage")["failures"])


def crash(*arguments: str) -> dict[str, Any]:
    """Run the driver; in memory where there is some, as the thousands of syncs here take half a minute on a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="mwactl-test-") as directory:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", DRIVER, directory, *arguments],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


# -- space, permissions, company --------------------------------------------------------------------------------------


def test_space_is_looked_for_before_anything_is_written(images, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=7 * SIDE * SIDE * 3 - 1))
    with pytest.raises(ResourceError, match="the disk is full") as caught:
        build(images)
    assert caught.value.exit_code == ExitCode.RESOURCES
    assert "MB are free there, 0.0 MB are needed" in str(caught.value)
    assert parts() == parts(ending="rgb") == []


def test_a_disk_that_fills_up_keeps_the_parts_that_were_finished(images, served, monkeypatch: pytest.MonkeyPatch):
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        build(images)
    monkeypatch.setattr(os, "fsync", fsync)
    assert not list(PictureCache(SQUARE).folder.glob(".*.part"))
    assert served() == 3
    assert build(images) == 4


def test_a_folder_that_cannot_be_written_to_is_an_error_that_names_it(images, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match="cannot be written to") as caught:
        build(images)
    assert "pictures" in str(caught.value)


def test_a_complete_cache_may_lie_where_nobody_can_write(images, served, monkeypatch: pytest.MonkeyPatch):
    build(images)
    monkeypatch.setattr(cache_module, "FileLock", lambda *_: pytest.fail("a lock was made"))
    assert build(images) == 0
    assert served() == 8


def test_a_second_builder_waits_for_the_first_and_then_has_nothing_to_do(images, served):
    first_is_at_work, go_on = threading.Event(), threading.Event()
    made: dict[str, int] = {}

    def slow(picture: Image.Image) -> Image.Image:
        first_is_at_work.set()
        go_on.wait(20)
        return squeeze(picture)

    known = digests(images)
    reporter = Listener()
    first, second = PictureCache(SQUARE), PictureCache(SQUARE, reporter=reporter)
    first.geometry = Geometry(slow, SQUARE.description)
    threads = [
        threading.Thread(target=lambda n=name, c=cache: made.update({n: c.build("tiny", images, known)}))
        for name, cache in (("first", first), ("second", second))
    ]
    threads[0].start()
    assert first_is_at_work.wait(20)
    threads[1].start()
    assert reporter.heard.wait(20)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert made == {"first": 7, "second": 0}
    assert "waiting for it" in reporter.said[0]
    assert served() == 8


def test_an_interrupted_build_keeps_its_finished_parts_and_leaves_nothing_else(images, served):
    class Impatient(Listener):
        count = 0

        def progress(self, label: str, total: int, *, done: int = 0) -> Any:
            return self

        def advance(self, steps: int = 1, *, note: str = "") -> None:
            self.count += 1
            if self.count == 5:
                raise Interrupted

        def close(self) -> None:
            self.said.append("closed")

    reporter = Impatient()
    with pytest.raises(Interrupted):
        build(images, reporter=reporter)
    assert reporter.said == ["closed"]
    assert not list(PictureCache(SQUARE).folder.glob(".*.part"))
    assert served() == 3
    assert build(images) == 4


def test_what_a_killed_build_left_is_removed_by_the_next(images):
    folder = PictureCache(SQUARE).folder
    folder.mkdir(parents=True)
    (folder / ".abc.rgb.xyz.part").write_bytes(b"half")
    (folder / "abc.rgb").write_bytes(b"a part whose index was never written")
    build(images)
    assert {path.suffix for path in folder.iterdir()} == {"", ".rgb", ".json"}
    assert len(parts()) == len(parts(ending="rgb"))


# -- deleting ---------------------------------------------------------------------------------------------------------


def test_removing_deletes_what_was_made_for_one_data_set_in_every_geometry(images, served):
    build(images[:4])
    build(images[:4], HALF)
    build(images[4:], name="other")
    freed = sum(path.stat().st_size for path in parts(HALF, "rgb")) + 4 * SIDE * SIDE * 3
    assert remove_cached("tiny") == freed
    assert (served(), served(HALF)) == (4, 0)
    assert remove_cached("tiny") == 0
