from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mwactl.errors import DataError, ResourceError
from mwactl.search.sources import read_sources


def table(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'image,caption,year\na.png,"red, and ""loud""",2019\nsub/b.png,blue,2020\n'),
        ("t.tsv", 'image\tcaption\tyear\na.png\tred, and "loud"\t2019\nsub/b.png\tblue\t2020\n'),
        ("t.jsonl", '{"image": "a.png", "caption": "red, and \\"loud\\"", "year": "2019"}\n\n'
                    '{"path": "sub/b.png", "caption": "blue", "year": "2020", "gone": null}\n'),
    ],
)  # fmt: skip
def test_the_other_columns_become_fields(tmp_path: Path, paint, name, text):
    paint(tmp_path / "a.png", "red")
    first, second = read_sources([table(tmp_path, name, text)], "images")
    assert (first.id, first.path) == ("a.png", str(tmp_path / "a.png"))
    assert first.fields == {"caption": 'red, and "loud"', "year": "2019"}
    assert first.stamp[0] == (tmp_path / "a.png").stat().st_size
    assert (second.id, second.path) == ("sub/b.png", str(tmp_path / "sub" / "b.png"))
    assert second.fields == {"caption": "blue", "year": "2020"}
    assert second.stamp == ()  # not there: the attempt to read it tells


def test_an_id_column_names_the_rows(tmp_path: Path):
    path = table(tmp_path, "t.jsonl", '{"id": 7, "image": "a.png"}\n{"id": "x", "image": "/b.png"}\n')
    assert [(item.id, item.path) for item in read_sources([path], "images")] == [
        ("7", str(tmp_path / "a.png")), ("x", "/b.png"),
    ]  # fmt: skip


def test_a_picture_with_a_row_for_each_caption_is_taken_once(tmp_path: Path):
    path = table(tmp_path, "t.csv", "image,caption\na.png,one\na.png,two\nb.png,three\n")
    assert [(i.id, i.fields["caption"]) for i in read_sources([path], "images")] == [
        ("a.png", "one"), ("b.png", "three"),
    ]  # fmt: skip
    captions = [(i.id, i.text, i.fields) for i in read_sources([path], "texts")]
    assert captions == [
        ("t.csv:2", "one", {"image": "a.png"}), ("t.csv:3", "two", {"image": "a.png"}),
        ("t.csv:4", "three", {"image": "b.png"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "where", "words"),
    [
        ("t.csv", "picture,caption\na.png,x\n", "t.csv:2", "no column 'image'"),
        ("t.csv", "image,caption\na.png\n", "t.csv:2", "1 fields where the header has 2"),
        ("t.csv", 'image,caption\na.png,"x\n', "t.csv:2", "unexpected end of data"),
        ("t.csv", "image,caption\n ,x\n", "t.csv:2", "not the path of a picture"),
        ("t.jsonl", '{"image": "a.png"}\n{"image": 3}\n', "t.jsonl:2", "not the path of a picture"),
        ("t.jsonl", '{"image": "a.png"}\n[1]\n', "t.jsonl:2", "not a JSON object"),
        ("t.jsonl", "\n{\n", "t.jsonl:2", "not JSON"),
        ("t.jsonl", '{"image": "a.png", "id": []}\n', "t.jsonl:1", "'id' is neither"),
        ("t.jsonl", '{"image": "a.png", "x": "\\ud800"}\n', "t.jsonl:1", "half a character"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_line(tmp_path: Path, name, text, where, words):
    path = table(tmp_path, name, text)
    with pytest.raises(DataError, match=words) as error:
        list(read_sources([path], "images"))
    assert error.value.where == str(tmp_path / where)


def test_captions_need_their_column(tmp_path: Path):
    with pytest.raises(DataError, match="no text in a column 'caption'"):
        list(read_sources([table(tmp_path, "t.csv", "image\na.png\n")], "texts"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ResourceError, match="pip install pyarrow"):
        list(read_sources([path], "images"))


def test_parquet_with_pyarrow(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"image": ["a.png", "b.png"], "year": [2019, None]}), path)
    assert [(i.id, i.fields) for i in read_sources([path], "images")] == [("a.png", {"year": 2019}), ("b.png", {})]
    path.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DataError, match="the table cannot be read"):
        list(read_sources([path], "images"))
