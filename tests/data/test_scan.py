from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mwactl.data import CaptionedImages, Catalogue, Row, scan
from mwactl.data.picture import decode as decode_picture
from mwactl.errors import DataError, UsageError
from mwactl.files import sha256_file
from mwactl.home import cache_path
from mwactl.progress import Progress, Silent

Painter = Callable[[Path], Path]


class Listener(Silent):
    """Remembers warnings and counts steps."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.steps = 0
        self.total = 0

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def progress(self, label: str, total: int, *, done: int = 0) -> Progress:
        self.total = total
        return self

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        self.steps += steps

    def close(self) -> None:
        pass


@pytest.fixture
def dataset(tmp_path: Path, picture: Painter) -> CaptionedImages:
    """Six pictures, all fine."""
    rows = [Row(picture(tmp_path / "images" / f"{name}.png"), f"caption {name}") for name in "abcdef"]
    return CaptionedImages.from_rows("tiny", "train", rows)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that a scan decodes."""
    names: list[str] = []
    decode, lock = decode_picture, threading.Lock()

    def counting(file: object, path: Path) -> object:
        with lock:
            names.append(path.name)
        return decode(file, path)

    monkeypatch.setattr(sys.modules["mwactl.data.scan"], "decode", counting)
    return names


def the_cache_file() -> Path:
    (path,) = (cache_path() / "scans").iterdir()
    return path


def test_digests_are_those_of_the_files(dataset: CaptionedImages) -> None:
    report = scan(dataset)
    assert report.digests == tuple(sha256_file(path) for path in dataset.images)
    assert report.problems == ()
    report.raise_if_any("stop")


def test_progress_counts_every_picture(dataset: CaptionedImages) -> None:
    listener = Listener()
    scan(dataset, reporter=listener)
    assert (listener.steps, listener.total) == (6, 6)


def test_bad_pictures_are_named_with_their_cause(dataset: CaptionedImages) -> None:
    dataset.images[1].write_text("no picture")
    dataset.images[3].unlink()
    dataset.images[5].write_bytes(dataset.images[5].read_bytes()[:45])
    report = scan(dataset)
    assert [(problem.image, problem.path) for problem in report.problems] == [(i, dataset.images[i]) for i in (1, 3, 5)]
    assert [problem.reason for problem in report.problems][:2] == ["not a picture of a known format", "no such file"]
    assert [digest is None for digest in report.digests] == [False, True, False, True, False, True]
    rest = dataset.without(report.bad)
    assert [path.name for path in rest.images] == ["a.png", "c.png", "e.png"]
    assert rest.captions == ("caption a", "caption c", "caption e")


def test_stop_names_five_problems_and_counts_all(dataset: CaptionedImages) -> None:
    for path in dataset.images:
        path.write_text("no picture")
    report = scan(dataset)
    with pytest.raises(DataError, match="6 of 6 pictures") as caught:
        report.raise_if_any("stop")
    why = caught.value.why or ""
    assert [str(path) in why for path in dataset.images] == [True] * 5 + [False]
    assert why.endswith("and 1 more")
    assert "data.on_error=skip" in (caught.value.fix or "")
    report.raise_if_any("skip")


def test_another_word_than_stop_or_skip_is_a_mistake(dataset: CaptionedImages) -> None:
    with pytest.raises(ValueError, match="on_error"):
        scan(dataset).raise_if_any("ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_threads_changes_nothing(dataset: CaptionedImages, workers: int) -> None:
    dataset.images[2].write_text("no picture")
    report = scan(dataset, workers=workers)
    assert [problem.image for problem in report.problems] == [2]
    assert report.digests[3] == sha256_file(dataset.images[3])


def test_no_worker_is_refused(dataset: CaptionedImages) -> None:
    with pytest.raises(UsageError):
        scan(dataset, workers=0)


def test_a_second_scan_decodes_nothing_and_says_the_same(dataset: CaptionedImages, decoded: list[str]) -> None:
    dataset.images[1].write_text("no picture")
    first = scan(dataset)
    assert sorted(decoded) == [f"{name}.png" for name in "abcdef"]
    decoded.clear()
    assert scan(dataset) == first
    assert decoded == []


def test_a_changed_picture_is_decoded_again(dataset: CaptionedImages, decoded: list[str], picture: Painter) -> None:
    before = scan(dataset)
    decoded.clear()
    other = picture(dataset.images[2].with_name("zzz.png"))
    other.replace(dataset.images[2])
    after = scan(dataset)
    assert decoded == ["c.png"]
    assert after.digests[2] == sha256_file(dataset.images[2])
    assert after.digests[2] != before.digests[2]


@pytest.mark.parametrize("what", ["size", "time"])
def test_size_and_time_both_tell_a_change(dataset: CaptionedImages, decoded: list[str], what: str) -> None:
    scan(dataset)
    decoded.clear()
    path, stat = dataset.images[0], dataset.images[0].stat()
    if what == "size":
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    scan(dataset)
    assert decoded == ["a.png"]


def test_a_repaired_picture_is_usable(dataset: CaptionedImages, picture: Painter) -> None:
    dataset.images[0].write_text("no picture")
    dataset.images[1].unlink()
    assert scan(dataset).bad == {0, 1}
    picture(dataset.images[0])
    picture(dataset.images[1])
    assert scan(dataset).bad == frozenset()


def test_a_file_that_failed_to_be_read_is_tried_again(
    dataset: CaptionedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path == dataset.images[1]:
            raise OSError(5, "Input/output error")
        return read_bytes(path)

    with monkeypatch.context() as context:
        context.setattr(Path, "read_bytes", failing)
        (problem,) = scan(dataset).problems
    assert (problem.image, problem.reason) == (1, "Input/output error")
    assert scan(dataset).problems == ()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', b'{"schema": 1, "reader": 3, "pictures": 4}'],
)
def test_a_damaged_cache_is_made_again(dataset: CaptionedImages, content: bytes, decoded: list[str]) -> None:
    first = scan(dataset)
    whole = the_cache_file().read_bytes()
    the_cache_file().write_bytes(content)
    decoded.clear()
    listener = Listener()
    assert scan(dataset, reporter=listener) == first
    assert len(decoded) == 6
    assert the_cache_file().read_bytes() == whole
    if b'"reader"' not in content:
        assert [str(the_cache_file()) in warning for warning in listener.warnings] == [True]


def test_a_cache_with_a_wrong_entry_is_not_believed(dataset: CaptionedImages, decoded: list[str]) -> None:
    first = scan(dataset)
    digest = first.digests[0] or ""
    the_cache_file().write_bytes(the_cache_file().read_bytes().replace(digest.encode(), b"tooshort"))
    decoded.clear()
    listener = Listener()
    assert scan(dataset, reporter=listener) == first
    assert len(decoded) == 6
    assert "damaged" in listener.warnings[0]


def test_findings_of_another_pillow_do_not_count(
    dataset: CaptionedImages, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(dataset)
    decoded.clear()
    monkeypatch.setattr("PIL.__version__", "0.0.1")
    listener = Listener()
    scan(dataset, reporter=listener)
    assert len(decoded) == 6
    assert listener.warnings == []


def test_an_interrupted_scan_goes_on_where_it_was(dataset: CaptionedImages, decoded: list[str]) -> None:
    class Impatient(Listener):
        def advance(self, steps: int = 1, *, note: str = "") -> None:
            super().advance(steps)
            if self.steps == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(dataset, reporter=Impatient())
    decoded.clear()
    scan(dataset)
    assert len(decoded) <= 2


def test_scanning_a_part_forgets_nothing(dataset: CaptionedImages, decoded: list[str]) -> None:
    scan(dataset)
    part = dataset.without([0])
    part.images[0].write_text("changed")
    scan(part)
    decoded.clear()
    scan(dataset)
    assert decoded == []


@pytest.mark.shared
def test_flickr8k_pictures_are_all_readable_and_digest_is_known(shared: Path) -> None:
    folder = shared / "data" / "flickr8k"
    entry = Catalogue.default().add(
        "flickr8k", format="karpathy", annotations=folder / "dataset_flickr8k.json", images=folder / "images"
    )
    dataset = entry.load("val")
    report = scan(dataset)
    assert report.problems == ()
    digest = dataset.digest([digest for digest in report.digests if digest])
    assert digest == "06072af78b7dc537c8253564705323ce9cec857e0fd0618af73ce0acf44f8d85"
