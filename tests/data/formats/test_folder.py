from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mwactl.data import READERS
from mwactl.errors import DataError, NotFoundError, UsageError

read = READERS["folder"]


def put(root: Path, **captions: str) -> None:
    """Write `cat="a cat"` as cat.jpg (empty: readers don't open pictures) and cat.txt."""
    root.mkdir(parents=True, exist_ok=True)
    for stem, text in captions.items():
        (root / f"{stem}.jpg").touch()
        (root / f"{stem}.txt").write_text(text)


def test_a_caption_a_line_in_the_order_of_paths(tmp_path: Path) -> None:
    put(tmp_path, b="one\r\ntwo\r\n", a="three\n\n\n")
    put(tmp_path / "deeper", c="four")
    rows = read(None, tmp_path)
    assert list(rows) == ["all"]
    assert [(row.image.name, row.caption) for row in rows["all"]] == [
        ("a.jpg", "three"), ("b.jpg", "one"), ("b.jpg", "two"), ("c.jpg", "four"),
    ]  # fmt: skip


def test_sub_folders_are_splits_and_dev_is_val(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        put(tmp_path / split, x=f"from {split}")
    splits = read(None, tmp_path)
    assert {split: rows[0].caption for split, rows in splits.items()} == {
        "train": "from train", "val": "from dev", "test": "from test",
    }  # fmt: skip


def test_hidden_files_and_other_kinds_are_ignored(tmp_path: Path) -> None:
    put(tmp_path, a="x")
    (tmp_path / "._a.jpg").touch()
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "z.png").touch()
    assert len(read(None, tmp_path)["all"]) == 1


def test_a_linked_folder_is_read_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", a="x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(root)
    assert [row.image for row in read(None, root)["train"]] == [root / "train" / "a.jpg"]


def lonely_picture(root: Path) -> None:
    (root / "z.png").touch()


def lonely_captions(root: Path) -> None:
    (root / "z.txt").write_text("a zebra")


def two_pictures_of_one_name(root: Path) -> None:
    (root / "a.png").touch()


def empty_line(root: Path) -> None:
    put(root, z="one\n\ntwo\n")


def empty_file(root: Path) -> None:
    put(root, z="")


def both_dev_and_val(root: Path) -> None:
    put(root / "dev", z="z")
    put(root / "val", y="y")


def loose_picture(root: Path) -> None:
    put(root / "train", z="z")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lonely_picture, r"z\.png: picture without caption \(no z\.txt"),
        (lonely_captions, r"z\.txt: captions without a picture"),
        (two_pictures_of_one_name, r"a\.txt: captions of several pictures at once \(a\.jpg, a\.png\)"),
        (empty_line, r"z\.txt:2: empty caption"),
        (empty_file, r"z\.txt:1: empty caption"),
        (both_dev_and_val, r"both mean the split val"),
        (loose_picture, r"a\.jpg: a picture outside of the split folders"),
    ],
)
def test_a_mistake_names_its_file(tmp_path: Path, mistake: Callable[[Path], None], message: str) -> None:
    put(tmp_path, a="fine")
    mistake(tmp_path)
    with pytest.raises(DataError, match=message):
        read(None, tmp_path)


def test_wrong_encoding_names_the_text_file(tmp_path: Path) -> None:
    put(tmp_path, a="x")
    (tmp_path / "a.txt").write_bytes(b"fine\nK\xe4tzchen\n")
    with pytest.raises(DataError, match=r"a\.txt:2"):
        read(None, tmp_path)


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no captioned picture"):
        read(None, tmp_path)


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read(None, tmp_path / "absent")


def test_an_annotation_file_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out --annotations"):
        read(tmp_path / "a.json", tmp_path)
