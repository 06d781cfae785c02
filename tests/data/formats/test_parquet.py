from __future__ import annotations

import io
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from mwactl.data import table_cell
from mwactl.data.formats import READERS
from mwactl.data.table_cell import TableCell
from mwactl.errors import DataError, ResourceError


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(file, "PNG")
    return file.getvalue()


RED, BLUE, GREEN = (png(colour) for colour in ("red", "blue", "green"))


def cell(data: bytes | None, path: str | None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pa.table(columns), path, **options)
    return path


def stream(path: Path, columns: dict[str, Any], rows: int) -> Path:
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def read(path: Path) -> dict[str, list[Any]]:
    return READERS["parquet"](path, path.parent)


def seen(rows: list[Any]) -> list[tuple[str, bytes, str]]:
    return [(row.image.name, row.image.read_bytes(), row.caption) for row in rows]


COLUMNS = {"image": [cell(RED, "a.png"), cell(BLUE, "x/b.png")], "caption": ["one", "two"]}


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_a_structure_of_bytes_and_path(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        path = written(tmp_path / "d.parquet", COLUMNS, row_group_size=1)
    elif kind == "stream":
        path = stream(tmp_path / "d.arrow", COLUMNS, rows=1)
    else:
        table = pa.table(COLUMNS)
        path = tmp_path / "d.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
    rows = read(path)["all"]
    assert seen(rows) == [("a.png", RED, "one"), ("b.png", BLUE, "two")]
    assert [str(row.image) for row in rows] == [f"{path}:1", f"{path}:2"]
    assert pickle.loads(pickle.dumps(rows[1].image)).read_bytes() == BLUE


@pytest.mark.parametrize("type", [pa.binary(), pa.large_binary()])
def test_bytes_alone_are_named_after_themselves(tmp_path: Path, type: pa.DataType) -> None:
    columns = {"image": pa.array([RED, BLUE, RED], type), "text": ["one", "two", "three"]}
    rows = read(written(tmp_path / "d.parquet", columns))["all"]
    assert [row.image.read_bytes() for row in rows] == [RED, BLUE, RED]
    assert rows[0].image == rows[2].image != rows[1].image
    assert len(rows[0].image.name) == 16


def test_the_same_name_is_the_same_picture_only_if_the_bytes_are(tmp_path: Path) -> None:
    columns = {
        "image": [cell(RED, "a.png"), cell(BLUE, "a.png"), cell(RED, "a.png")], "caption": ["one", "two", "three"],
    }  # fmt: skip
    rows = read(written(tmp_path / "d.parquet", columns, row_group_size=2))["all"]
    assert seen(rows) == [("a.png", RED, "one"), ("a.png", BLUE, "two"), ("a.png", RED, "three")]
    assert rows[0].image == rows[2].image != rows[1].image


def test_a_row_without_bytes_names_a_file(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(BLUE)
    columns = {"image": [cell(RED, "a.png"), cell(None, "b.png")], "caption": ["one", "two"]}
    rows = read(written(tmp_path / "d.parquet", columns))["all"]
    assert seen(rows) == [("a.png", RED, "one"), ("b.png", BLUE, "two")]
    assert rows[1].image == tmp_path / "b.png"


def test_tags_splits_and_lists_of_captions(tmp_path: Path) -> None:
    columns = COLUMNS | {"captions": [["one", "one"], ["two"]], "split": ["test", "train"], "tag": ["day", None]}
    del columns["caption"]
    splits = read(written(tmp_path / "d.parquet", columns))
    assert {split: [(row.caption, row.tag) for row in rows] for split, rows in splits.items()} == {
        "test": [("one", "day"), ("one", "day")], "train": [("two", "")],
    }  # fmt: skip


def test_what_datasets_caches_beside_is_passed_over(tmp_path: Path) -> None:
    stream(tmp_path / "data-00000-of-00001.arrow", COLUMNS, rows=2)
    stream(tmp_path / "cache-0f.arrow", COLUMNS, rows=2)
    assert len(READERS["parquet"](tmp_path, tmp_path)["all"]) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a.png"]}, "its columns are: 'image'"),
        ({"caption": ["one"], "path": ["a.png"]}, "its columns are: 'caption', 'path'"),
        ({"image": [7], "caption": ["one"]}, "'image' is of the type int64"),
        ({"image": [{"width": 7}], "caption": ["one"]}, "'image' is of the type struct"),
        ({"image": [[7]], "caption": ["one"]}, "'image' is of the type list"),
        ({"image": [{"bytes": "x"}], "caption": ["one"]}, "'image' is of the type struct"),
        ({"image": [{"bytes": RED, "path": 7}], "caption": ["one"]}, "'image.path' is of the type int64"),
        ({"image": [RED], "caption": ["x"], "tag": [["night"]]}, "'tag' is not a text"),
        ({"image": [RED], "caption": [None]}, r"d.parquet:1: there is no caption"),
        ({"image": [RED], "caption": [[]]}, r"d.parquet:1: there is no caption"),
        ({"image": [RED], "caption": [7]}, r"d.parquet:1: there is no caption"),
        ({"image": [RED, BLUE], "caption": ["x", " "]}, r"d.parquet:2: empty caption"),
        ({"image": [RED], "caption": ["x"], "split": [7]}, "says which split it is of"),
        ({"image": [RED], "caption": ["x"], "tag": [7]}, "'tag' is not a text"),
        ({"image": ["../a.png"], "caption": ["x"]}, "is not inside the picture folder"),
        ({"image": ["a\0.png"], "caption": ["x"]}, "a character that no file name can have"),
        ({"image": pa.array([RED, None], pa.binary()), "caption": ["x", "y"]}, r"d.parquet:2: the picture's name is"),
        ({"image": [None, "a.png"], "caption": ["x", "y"]}, r"d.parquet:1: the picture's name is empty"),
        ({"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}, "no captioned picture in it"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_row(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(written(tmp_path / "d.parquet", columns))


def test_a_column_that_is_there_twice_is_told(tmp_path: Path) -> None:
    table = pa.table([[RED], [BLUE], ["x"]], names=["image", "image", "caption"])
    parquet.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match="several columns 'image'"):
        read(tmp_path / "d.parquet")


def test_texts_that_are_not_utf_8_are_told(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    with pytest.raises(DataError, match="the table cannot be read"):
        read(written(tmp_path / "d.parquet", {"image": [RED], "caption": bad}))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.95])
def test_a_table_that_was_cut_is_no_smaller_data_set(tmp_path: Path, suffix: str, share: float) -> None:
    whole = (
        written(tmp_path / "d.parquet", COLUMNS) if suffix == ".parquet" else stream(tmp_path / "d.arrow", COLUMNS, 1)
    )
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="the table cannot be read"):
        read(whole)


def test_a_stream_without_its_last_batch_is_told(tmp_path: Path) -> None:
    """Arrow itself takes the end of the file for the end of the stream."""
    path = stream(tmp_path / "d.arrow", COLUMNS, rows=1)
    source = pa.BufferReader(path.read_bytes())
    pa.ipc.open_stream(source).read_next_batch()
    path.write_bytes(path.read_bytes()[: source.tell()])
    assert len(list(pa.ipc.open_stream(path.read_bytes()))) == 1
    with pytest.raises(DataError, match="without its end mark"):
        read(path)


def test_a_table_that_changed_is_not_read_by_its_old_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "d.parquet", COLUMNS)
    before = read(path)["all"][0].image
    assert before.read_bytes() == RED
    written(path, {"image": [cell(GREEN, "a.png")], "caption": ["other"]})
    os.utime(path, (1, 1))  # also where the clock is coarse
    with pytest.raises(OSError, match="changed after its index was read"):
        before.read_bytes()
    assert seen(read(path)["all"]) == [("a.png", GREEN, "other")]


def test_an_empty_cell_is_no_picture(tmp_path: Path) -> None:
    path = written(tmp_path / "d.parquet", {"image": [cell(RED, "a.png"), cell(None, "b.png")], "caption": ["x", "y"]})
    place = read(path)["all"][0].image
    assert isinstance(place, TableCell)
    with pytest.raises(OSError, match="the cell is empty"):
        TableCell(place.table, place.stamp, 0, 1, 1, "b").read_bytes()


def test_pictures_in_order_read_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"image": [cell(RED, f"{n}.png") for n in range(12)], "caption": ["x"] * 12}
    rows = read(written(tmp_path / "d.parquet", columns, row_group_size=4))["all"]
    groups: list[int] = []

    def counted(table: Path, group: int) -> Any:
        groups.append(group)
        return read_cells(table, group)

    read_cells = table_cell.read_cells
    monkeypatch.setattr(table_cell, "read_cells", counted)
    monkeypatch.setattr(table_cell, "_KEPT_BYTES", 0)
    for row in rows:
        row.image.read_bytes()
    assert groups == [0, 1, 2]


def test_the_batches_of_a_stream_are_looked_for_once(tmp_path: Path) -> None:
    columns = {"image": [cell(RED, f"{n}.png") for n in range(12)], "caption": ["x"] * 12}
    before = table_cell._record_batches.cache_info().misses
    rows = read(stream(tmp_path / "d.arrow", columns, rows=1))["all"]
    assert {row.image.read_bytes() for row in rows} == {RED}
    assert table_cell._record_batches.cache_info().misses == before + 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_was_forked_while_another_thread_reads_can_read(tmp_path: Path) -> None:
    [row] = read(written(tmp_path / "d.parquet", {"image": [cell(RED, "a.png")], "caption": ["x"]}))["all"]
    with table_cell._GROUPS._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # ends it where it waits for the lock
            os._exit(0 if row.image.read_bytes() == RED else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_without_pyarrow_the_way_on_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "d.parquet", COLUMNS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ResourceError, match=r"pip install 'mwactl\[parquet\]'"):
        read(path)
