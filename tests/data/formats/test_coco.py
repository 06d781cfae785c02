from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mwactl.data.formats import READERS
from mwactl.errors import DataError, NotFoundError, UsageError

read = READERS["coco"]


def written(path: Path, images: Any, annotations: Any) -> Path:
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return path


A, B = {"id": 9, "file_name": "a.jpg"}, {"id": 4, "file_name": "b.jpg"}
ONE, TWO, THREE = (
    {"id": 1, "image_id": 4, "caption": "one"},
    {"id": 2, "image_id": 9, "caption": "two"},
    {"id": 3, "image_id": 4, "caption": "one"},
)


def test_pictures_keep_their_order_and_captions_theirs(tmp_path: Path) -> None:
    splits = read(written(tmp_path / "captions_train2017.json", [A, B], [ONE, TWO, THREE]), tmp_path)
    assert [(row.image.name, row.caption) for row in splits["train"]] == [
        ("a.jpg", "two"), ("b.jpg", "one"), ("b.jpg", "one"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "split"),
    [("captions_val2014.json", "val"), ("captions_train2017_subset.json", "train"), ("mine.json", "all"),
     ("test_captions.json", "test")],
)  # fmt: skip
def test_a_file_is_the_split_that_its_name_says(tmp_path: Path, name: str, split: str) -> None:
    assert list(read(written(tmp_path / name, [B], [ONE]), tmp_path)) == [split]


def test_beside_files_of_a_split_one_of_none_is_a_mistake(tmp_path: Path) -> None:
    for name in ("captions_train2017.json", "captions_extra.json"):
        written(tmp_path / name, [B], [ONE])
    with pytest.raises(DataError, match=r"captions_extra.json: the file's name does not say which split"):
        read(tmp_path, tmp_path)


def test_a_folder_called_as_the_file_is_not_the_pictures(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    for name, image in (("annotations.json", "b.jpg"), ("captions_train.json", "train/b.jpg")):
        [rows] = read(written(tmp_path / name, [B], [ONE]), tmp_path).values()
        assert rows[0].image == tmp_path / image


def test_a_pattern_chooses_some_files(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        written(tmp_path / f"captions_{split}.json", [{"id": 4, "file_name": f"{split}.jpg"}], [ONE])
    assert set(read(tmp_path / "captions_{train,val}.json", tmp_path)) == {"train", "val"}
    assert set(read(tmp_path / "captions_t*.json", tmp_path)) == {"train", "test"}


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([B, B], [ONE], r"images\[1\]: the id 4 is that of b.jpg too"),
        ([A, B], [ONE], r"images\[0\]: picture without caption \(a.jpg\)"),
        ([B], [ONE, TWO], r"annotations\[1\]: no picture has the id 9"),
        ([B], [ONE, {"image_id": 4}], r"annotations\[1\]: it has no whole number 'image_id', or no string 'caption'"),
        ([B], [ONE, {"image_id": True, "caption": "x"}], r"annotations\[1\]: it has no whole number"),
        ([B], [ONE, {"image_id": 4, "caption": " "}], r"annotations\[1\]: empty caption"),
        ([B, 7], [ONE], r"images\[1\]: not an object"),
        ([B, {"id": "5"}], [ONE], r"images\[1\]: 'id' is missing or not a whole number"),
        ([B, {"id": 5}], [ONE], r"images\[1\]: 'file_name' is missing"),
        ([{"id": 4, "file_name": "../b.jpg"}], [ONE], "is not inside the picture folder"),
        ([{"id": 4, "file_name": "/b.jpg"}], [ONE], "absolute path"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_place(tmp_path: Path, images: Any, annotations: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(written(tmp_path / "captions_val.json", images, annotations), tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"images": []}', '{"images": 3, "annotations": []}'])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match="this is JSON, but not COCO's"):
        read(tmp_path / "c.json", tmp_path)


def test_the_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read(tmp_path / "absent.json", tmp_path)
    with pytest.raises(UsageError, match="needs an annotation file"):
        read(None, tmp_path)
