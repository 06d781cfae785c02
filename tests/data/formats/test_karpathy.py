from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mwactl.data import READERS
from mwactl.errors import DataError, UsageError

read = READERS["karpathy"]
Writer = Callable[..., Path]


def test_pictures_and_captions_keep_file_order(karpathy: Writer, tmp_path: Path) -> None:
    path = karpathy([("b.jpg", "train", ["one", "two"]), ("t.jpg", "test", ["x"]), ("a.jpg", "train", ["three"])])
    splits = read(path, tmp_path)
    assert list(splits) == ["train", "test"]
    assert [(row.image.name, row.caption) for row in splits["train"]] == [
        ("b.jpg", "one"), ("b.jpg", "two"), ("a.jpg", "three"),
    ]  # fmt: skip


def test_restval_joins_train_in_file_order(karpathy: Writer, tmp_path: Path) -> None:
    path = karpathy([("a.jpg", "restval", ["a"]), ("b.jpg", "train", ["b"]), ("c.jpg", "restval", ["c"])])
    splits = read(path, tmp_path)
    assert [(split, [row.caption for row in rows]) for split, rows in splits.items()] == [("train", ["a", "b", "c"])]


def test_filepath_is_the_folder_of_filename(karpathy: Writer, tmp_path: Path) -> None:
    path = karpathy([("a.jpg", "val", ["a"])], filepath="val2014")
    assert read(path, tmp_path)["val"][0].image == tmp_path / "val2014" / "a.jpg"


def test_captions_stay_as_written(karpathy: Writer, tmp_path: Path) -> None:
    path = karpathy([("a.jpg", "val", ["  A Dog .  \n"])])
    assert read(path, tmp_path)["val"][0].caption == "  A Dog .  \n"


def test_equal_words_of_two_annotators_stay_two_captions(karpathy: Writer, tmp_path: Path) -> None:
    path = karpathy([("a.jpg", "val", ["a dog", "a dog"])])
    assert len(read(path, tmp_path)["val"]) == 2


def test_a_repeated_sentence_counts_once(karpathy: Writer, tmp_path: Path) -> None:
    path = karpathy([("a.jpg", "val", ["a dog", "a cat"])])
    document = json.loads(path.read_text())
    document["images"] *= 2
    path.write_text(json.dumps(document))
    assert [row.caption for row in read(path, tmp_path)["val"]] == ["a dog", "a cat"]


def test_sentences_without_numbers_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    sentences = [{"raw": "a dog"}, {"raw": "a dog"}]
    path.write_text(json.dumps({"images": [{"filename": "a.jpg", "split": "val", "sentences": sentences}]}))
    assert len(read(path, tmp_path)["val"]) == 2


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"images": [\n  {"filename": "a.jpg",\n   "split" "val"}]}')
    with pytest.raises(DataError) as caught:
        read(path, tmp_path)
    assert caught.value.where == f"{path}:3"
    assert "line 3, column 12" in (caught.value.why or "")


@pytest.mark.parametrize("text", ["[]", '{"annotations": []}', "[" * 100_000, '{"images": ' + "1" * 5000 + "}"])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(DataError, match="Karpathy" if len(text) < 100 else "JSON cannot be read"):
        read(path, tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a.jpg", r"images\[1\]: not an object"),
        ({"split": "val", "sentences": []}, "'filename' is missing"),
        ({"filename": "x.jpg", "sentences": []}, "'split' is missing"),
        ({"filename": "x.jpg", "split": "val", "filepath": 3}, "'filepath'"),
        ({"filename": "x.jpg", "split": "val"}, r"'sentences' is missing or not a list \(x.jpg\)"),
        ({"filename": "x.jpg", "split": "val", "sentences": []}, r"picture without caption \(x.jpg\)"),
        ({"filename": "x.jpg", "split": "val", "sentences": [{"tokens": []}]}, r"sentences\[0\] has no string 'raw'"),
        (
            {"filename": "x.jpg", "split": "val", "sentences": [{"raw": "  "}]},
            r"sentences\[0\] \(x.jpg\): empty caption",
        ),
        ({"filename": "x.jpg", "split": "", "sentences": [{"raw": "a"}]}, "empty split"),
        ({"filename": "../x.jpg", "split": "val", "sentences": [{"raw": "a"}]}, "not inside the picture folder"),
        ({"filename": "/x.jpg", "split": "val", "sentences": [{"raw": "a"}]}, "absolute path"),
        ({"filename": "x\0.jpg", "split": "val", "sentences": [{"raw": "a"}]}, "no file name can have"),
        ({"filename": "x.jpg", "split": "val", "sentences": [{"raw": "a \ud83d"}]}, "surrogate"),
    ],
)
def test_a_mistake_names_its_place(karpathy: Writer, tmp_path: Path, entry: object, message: str) -> None:
    path = karpathy([("ok.jpg", "val", ["fine"])])
    document = json.loads(path.read_text())
    document["images"].append(entry)
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message) as caught:
        read(path, tmp_path)
    assert "dataset.json: images[1]" in (caught.value.why or "")


def test_all_mistakes_are_counted_and_five_are_named(karpathy: Writer, tmp_path: Path) -> None:
    path = karpathy([(f"{i}.jpg", "val", [""]) for i in range(7)])
    with pytest.raises(DataError, match="7 mistakes") as caught:
        read(path, tmp_path)
    why = caught.value.why or ""
    assert why.count("empty caption") == 5
    assert why.endswith("and 2 more")


def test_a_file_without_pictures_is_an_error(karpathy: Writer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no captioned picture"):
        read(karpathy([]), tmp_path)


def test_the_annotation_file_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--annotations"):
        read(None, tmp_path)
