"""Tables of pictures or captions: CSV, TSV, JSON Lines, and Parquet where pyarrow is installed.

The picture's path is in the column `image` (or `path`), relative to the table's folder or absolute; with captions to
embed, these are in `caption`. `id` names the row, if there is such a column. All other columns become fields.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mwactl.data.formats.text import read_text
from mwactl.errors import DataError, ResourceError
from mwactl.search.item import Item, What, stamp_of

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_PICTURE_COLUMNS = ("image", "path")

Record = tuple[str, Mapping[str, Any]]
"""Where a row is (`cats.csv:12`), and its columns."""


def read_table(table: Path, what: What) -> Iterator[Item]:
    """The rows of a table, in its order. A picture that has several rows (one a caption) is taken once, from the first.

    Raises:
        DataError: The table cannot be read, or a row lacks what is to be embedded.
        ResourceError: It is Parquet, and pyarrow is not installed.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    seen: set[tuple[str, str]] = set()
    for where, record in readers[table.suffix.lower()](table):
        _check_text(table, where, record)
        item = _picture(table, where, record) if what == "images" else _caption(table, where, record)
        if what == "images" and (item.id, item.path) in seen:
            continue
        seen.add((item.id, item.path))
        yield item


def _picture(table: Path, where: str, record: Mapping[str, Any]) -> Item:
    column = next((name for name in _PICTURE_COLUMNS if name in record), None)
    if column is None:
        raise _row_error(table, where, record, "no column 'image' (or 'path')")
    name = record[column]
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise _row_error(table, where, record, f"'{column}' is not the path of a picture")
    path = Path(os.path.normpath(table.parent / name))
    fields = _fields(record, {column, "id"})
    return Item(_id(record, table, where) or name, str(path), stamp_of(path), fields=fields)


def _caption(table: Path, where: str, record: Mapping[str, Any]) -> Item:
    caption = record.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise _row_error(table, where, record, "no text in a column 'caption'")
    fields = _fields(record, {"caption", "id"})
    return Item(_id(record, table, where) or where, str(table), text=caption, fields=fields)


def _check_text(table: Path, where: str, record: Mapping[str, Any]) -> None:
    """JSON can spell half a character, which can be neither stored nor printed."""
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _row_error(table, where, record, "a text has half a character (a lone surrogate)") from error


def _id(record: Mapping[str, Any], table: Path, where: str) -> str | None:
    name = record.get("id")
    if name is None:
        return None
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise _row_error(table, where, record, "'id' is neither a text nor a whole number")
    return str(name)


def _fields(record: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in used and value is not None}


def _read_csv(table: Path) -> Iterator[Record]:
    tabs = table.suffix.lower() == ".tsv"
    text = io.StringIO(read_text(table), newline="")
    # In TSV a quotation mark is a character like any other.
    reader = csv.reader(
        text, csv.excel_tab if tabs else csv.excel, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL, strict=True
    )
    header: list[str] = []
    line = 1
    try:
        for record in reader:
            where = f"{table.name}:{line}"
            line = reader.line_num + 1
            if not record:
                continue
            if not header:
                header = record
            elif len(record) != len(header):
                raise _row_error(table, where, {}, f"{len(record)} fields where the header has {len(header)}")
            else:
                yield where, dict(zip(header, record, strict=True))
    except csv.Error as error:
        raise _row_error(table, f"{table.name}:{line}", {}, str(error)) from error


def _read_jsonl(table: Path) -> Iterator[Record]:
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(read_text(table).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{table.name}:{number}"
        try:
            record = json.loads(line, parse_constant=lambda _: None)  # NaN is no JSON
        except (ValueError, RecursionError) as error:
            raise _row_error(table, where, {}, f"not JSON ({error})") from error
        if not isinstance(record, dict):
            raise _row_error(table, where, {}, "not a JSON object")
        yield where, record


def _read_parquet(table: Path) -> Iterator[Record]:
    try:
        parquet = import_module("pyarrow.parquet")
        arrow_error = import_module("pyarrow").ArrowException
    except ImportError as error:
        raise ResourceError(
            "Parquet needs pyarrow, which is not installed",
            where=str(table),
            why="the other table formats need nothing",
            fix="pip install pyarrow, or convert the table to JSON Lines",
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(table) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{table.name}:{number}", _plain(record)
    except (arrow_error, OSError) as error:
        raise DataError("the table cannot be read", where=str(table), why=str(error).splitlines()[0]) from error


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """The values as JSON knows them; others (times, bytes) as text, so that a filter can still name them."""
    return {name: json.loads(json.dumps(value, default=str, allow_nan=False)) for name, value in record.items()}


def _row_error(table: Path, where: str, record: Mapping[str, Any], why: str) -> DataError:
    columns = f"; its columns are {', '.join(map(repr, record))}" if record else ""
    return DataError(
        "a row of the table cannot be used", where=f"{table.parent / where}", why=why + columns,
        fix="correct or remove the row; nothing was embedded",
    )  # fmt: skip
