from __future__ import annotations

import json
from pathlib import Path

import pytest

from mwactl.data import READERS, CaptionedImages
from mwactl.errors import DataError, MwactlError, NotFoundError, UsageError

ROWS = [("a.jpg", "a cat, asleep", "train"), ("b.jpg", 'a "big" dog', "val"), ("a.jpg", "ein Kätzchen", "train")]


def written(path: Path, format: str, *, split: bool = True, start: str = "") -> Path:
    """`ROWS` as a file of a format."""
    columns = ["image", "caption", "split"][: 3 if split else 2]
    if format == "jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=False)), ensure_ascii=False) for row in ROWS]
    elif format == "tsv":
        lines = ["\t".join(row[: len(columns)]) for row in [tuple(columns), *ROWS]]
    else:
        quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row[: len(columns)]] for row in ROWS]
        lines = [",".join(row) for row in [columns, *quoted]]
    path.write_bytes((start + "\r\n".join(lines) + "\r\n").encode())
    return path


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte-order-mark"])
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
def test_the_same_table_in_every_format(tmp_path: Path, format: str, start: str) -> None:
    splits = READERS[format](written(tmp_path / "t", format, start=start), tmp_path)
    assert {split: [row[:2] for row in rows] for split, rows in splits.items()} == {
        "train": [(tmp_path / "a.jpg", "a cat, asleep"), (tmp_path / "a.jpg", "ein Kätzchen")],
        "val": [(tmp_path / "b.jpg", 'a "big" dog')],
    }


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
def test_without_a_split_column_the_split_is_all(tmp_path: Path, format: str) -> None:
    splits = READERS[format](written(tmp_path / "t", format, split=False), tmp_path)
    assert {split: len(rows) for split, rows in splits.items()} == {"all": 3}


def test_one_picture_may_have_many_rows(tmp_path: Path) -> None:
    rows = READERS["csv"](written(tmp_path / "t", "csv", split=False), tmp_path)["all"]
    dataset = CaptionedImages.from_rows("t", "all", rows)
    assert dataset.captions_of() == [[0, 2], [1]]


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
def test_the_very_same_row_counts_once(tmp_path: Path, format: str) -> None:
    path = written(tmp_path / "t", format)
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
    assert len(READERS[format](path, tmp_path)["train"]) == 2


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
def test_wrong_encoding_names_byte_and_line(tmp_path: Path, format: str) -> None:
    path = written(tmp_path / "t", format, start="\ufeff")
    data = path.read_bytes().replace("ä".encode(), b"\xe4")
    path.write_bytes(data)
    with pytest.raises(DataError, match="not UTF-8") as caught:
        READERS[format](path, tmp_path)
    line = data[: data.index(b"\xe4")].count(b"\n") + 1
    assert caught.value.where == f"{path}:{line}"
    assert f"byte 0xe4 at offset {data.index(bytes([0xE4]))}" in (caught.value.why or "")
    assert "iconv -f LATIN1" in (caught.value.fix or "")


def test_utf_16_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,caption\na.jpg,a cat\n", encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16"):
        READERS["csv"](path, tmp_path)


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("csv", "image,caption\na.jpg,fine\n\nb.jpg,\n", r"t:4: empty caption"),
        ("csv", "image,caption\na.jpg,\"two\nlines\"\nb.jpg,' '\nc.jpg,  \n", r"t:5: empty caption"),
        ("csv", "image,caption\na.jpg,a cat, asleep\n", r"t:2: 3 fields where the header has 2"),
        ("csv", "image,caption,split\na.jpg,a cat\n", r"t:2: 2 fields where the header has 3"),
        ("csv", "image,caption,split\na.jpg,a cat, \n", r"t:2: empty split"),
        ("csv", "image,caption\n,a cat\n", r"t:2: the picture's name is empty"),
        ("csv", "image,caption\n../a.jpg,a cat\n", r"t:2: '../a.jpg' is not inside the picture folder"),
        ("csv", "image,caption\n.,a cat\n", r"t:2: '.' is not inside the picture folder"),
        ("csv", 'image,caption\na.jpg,"never closed\nb.jpg,a cat\n', r"starts at line 2: unexpected end of data"),
        ("csv", "image;caption\na.jpg;a cat\n", r"its columns are: 'image;caption'"),
        ("csv", "file,text\na.jpg,a cat\n", r"no column 'image' and no column 'caption'"),
        ("csv", "", r"its columns are: none"),
        ("csv", "image,caption,caption\na.jpg,one,two\n", r"the column 'caption' more than once"),
        ("jsonl", '{"image": "a", "caption": "x", "split": "\\ud800"}\n', r"t:1: .*half a character"),
        ("jsonl", '{"image": "a", "caption": "x", "tag": "\\ud800"}\n', r"t:1: .*half a character"),
        ("csv", "image,caption\n", r"no captioned picture"),
        ("tsv", "image\tcaption\na.jpg\t\n", r"t:2: empty caption"),
        ("jsonl", '{"image": "a", "caption": "x"}\n{"image": "b"}\n', r"t:2: 'caption' missing"),
        ("jsonl", '{"image": 3, "caption": "x"}\n', r"t:1: 'image' missing or not a string"),
        ("jsonl", '{"image": "a", "caption": "x", "split": null}\n', r"t:1: 'split' missing or not a string"),
        ("jsonl", '{"image": "a", "caption": "x"}\n\n{"image"\n', r"t:3: not JSON"),
        ("jsonl", "[1]\n", r"t:1: not a JSON object"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, format: str, text: str, message: str) -> None:
    path = tmp_path / "t"
    path.write_text(text, newline="")
    with pytest.raises(DataError, match=message):
        READERS[format](path, tmp_path)


def test_absolute_paths_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,caption\n/elsewhere/a.jpg,a cat\n")
    assert READERS["csv"](path, tmp_path)["all"][0].image == Path("/elsewhere/a.jpg")


def test_a_path_that_stays_inside_is_one_picture_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,caption\nx/../a.jpg,one\n./a.jpg,two\na.jpg,three\n")
    assert {row.image for row in READERS["csv"](path, tmp_path)["all"]} == {tmp_path / "a.jpg"}


def test_jsonl_captions_may_hold_unicode_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"image": "a.jpg", "caption": "one\u2028two"}\n')
    assert READERS["jsonl"](path, tmp_path)["all"][0].caption == "one\u2028two"


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(("annotations", "error"), [(None, UsageError), (Path("absent"), NotFoundError)])
def test_the_file_must_be_there(
    tmp_path: Path, format: str, annotations: Path | None, error: type[MwactlError]
) -> None:
    with pytest.raises(error):
        READERS[format](annotations and tmp_path / annotations, tmp_path)


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("csv", "image,caption,tag\na.jpg,one,indoor\na.jpg,two,\nb.jpg,three,\n"),
        ("tsv", "image\tcaption\ttag\na.jpg\tone\t\na.jpg\ttwo\tindoor\nb.jpg\tthree\t\n"),
        ("jsonl", '{"image":"a.jpg","caption":"one","tag":"indoor"}\n{"image":"a.jpg","caption":"two","tag":null}\n'
                  '{"image":"b.jpg","caption":"three"}\n'),
    ],
)  # fmt: skip
def test_any_row_of_a_picture_may_give_its_tag(tmp_path: Path, format: str, text: str) -> None:
    (tmp_path / "t").write_text(text)
    dataset = CaptionedImages.from_rows("t", "all", READERS[format](tmp_path / "t", tmp_path)["all"])
    assert dataset.tags == ("indoor", "")


def test_a_picture_with_two_tags_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("image,caption,tag\na.jpg,one,indoor\na.jpg,two,outdoor\n")
    with pytest.raises(DataError, match=r"t:3: the picture has two tags, 'indoor' and 'outdoor'"):
        READERS["csv"](tmp_path / "t", tmp_path)


def test_a_tag_that_is_no_text_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('{"image": "a.jpg", "caption": "one", "tag": 3}\n')
    with pytest.raises(DataError, match=r"t:1: 'tag' missing or not a string"):
        READERS["jsonl"](tmp_path / "t", tmp_path)
