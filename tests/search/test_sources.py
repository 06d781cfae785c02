from __future__ import annotations

import os
from pathlib import Path

import pytest

from mwactl.errors import DataError, NotFoundError, UsageError
from mwactl.search.sources import read_sources


def ids(source: Path, what="images") -> list[str]:
    return [item.id for item in read_sources([source], what)]


def test_a_folder_gives_its_pictures_at_any_depth_by_path_and_nothing_hidden(tmp_path: Path, paint):
    for name in ("b.png", "a/z.JPG", "a/y.webp", ".hidden.png", ".git/x.png", "c/d/e.bmp"):
        paint(tmp_path / name, "red")
    (tmp_path / "notes.txt").write_text("no picture")
    assert ids(tmp_path) == ["b.png", "a/y.webp", "a/z.JPG", "c/d/e.bmp"]


def test_a_picture_knows_its_file_and_when_that_changed(tmp_path: Path, paint):
    path = paint(tmp_path / "a.png", "red")
    [item] = read_sources([tmp_path], "images")
    assert (item.path, item.place) == (str(path), str(path))
    assert item.stamp == (path.stat().st_size, path.stat().st_mtime_ns)
    assert item.read() == path.read_bytes()
    os.utime(path, ns=(1, 1))
    assert next(read_sources([tmp_path], "images")).stamp[1] == 1


def test_linked_folders_are_followed_once(tmp_path: Path, paint):
    paint(tmp_path / "a" / "x.png", "red")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert ids(tmp_path) == ["a/x.png"]


def test_a_text_file_gives_a_caption_a_line(tmp_path: Path):
    file = tmp_path / "captions.txt"
    file.write_text("a dog\n\n  a cat \r\nlast", "utf-8")
    items = list(read_sources([file], "texts"))
    assert [(item.id, item.text) for item in items] == [
        ("captions.txt:1", "a dog"), ("captions.txt:3", "a cat"), ("captions.txt:4", "last"),
    ]  # fmt: skip


def test_several_sources_come_in_the_order_given(tmp_path: Path, paint):
    for name in ("b", "a"):
        paint(tmp_path / name / f"{name}.png", "red")
    assert [item.id for item in read_sources([tmp_path / "b", tmp_path / "a"], "images")] == ["b.png", "a.png"]


def test_a_source_that_is_not_there(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no such source"):
        ids(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "what", "words"),
    [("x.tar.gz", "images", "compressed shard"), ("x.zip", "images", "unknown kind"), ("x.txt", "images", "unknown")],
)
def test_a_source_of_another_kind_is_refused(tmp_path: Path, name, what, words):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=words):
        ids(tmp_path / name, what)


def test_a_folder_holds_no_captions(tmp_path: Path):
    with pytest.raises(UsageError, match="embedded as pictures"):
        ids(tmp_path, "texts")


def test_an_empty_source_says_why(tmp_path: Path):
    with pytest.raises(DataError, match=r"no pictures in it.*\.jpg"):
        ids(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match="tar shards: name these"):
        ids(tmp_path)
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(DataError, match="no captions in it"):
        ids(tmp_path / "blank.txt", "texts")


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(DataError, match="not UTF-8"):
        ids(tmp_path)
