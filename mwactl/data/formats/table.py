"""Tables of captions: CSV, TSV and JSON Lines with `image`, `caption` and, where there are any, `split` and `tag`.

One row is one caption; a picture may have many rows, and one tag; other columns are ignored. Picture paths may be
absolute. Without `split` everything is one split called `all`. CSV fields may be quoted (RFC 4180); in TSV a quotation
mark is a character like any other.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mwactl.data.formats.rows import WHOLE, Row, RowCollector
from mwactl.data.formats.text import annotation_file, read_text
from mwactl.errors import DataError

_LONGEST_FIELD = 16 << 20  # the csv module's own limit, which it has for the process, is 128 KiB


def read_csv(annotations: Path | None, images: Path) -> dict[str, list[Row]]:
    """Read all splits of a CSV file with a header (see `Reader`)."""
    return _read_delimited(annotation_file(annotations, "csv"), images, csv.excel, quoting=csv.QUOTE_MINIMAL)


def read_tsv(annotations: Path | None, images: Path) -> dict[str, list[Row]]:
    """Read all splits of a TSV file with a header (see `Reader`)."""
    return _read_delimited(annotation_file(annotations, "tsv"), images, csv.excel_tab, quoting=csv.QUOTE_NONE)


def read_jsonl(annotations: Path | None, images: Path) -> dict[str, list[Row]]:
    """Read all splits of a file with one JSON object a line (see `Reader`)."""
    path = annotation_file(annotations, "jsonl")
    collector = RowCollector(path, images, absolute=True)
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            collector.problem(where, f"not JSON ({error})")
            continue
        _add_object(collector, where, fields)
    return collector.rows()


def _add_object(collector: RowCollector, where: str, fields: Any) -> None:
    """Take a row from a line's JSON value."""
    if not isinstance(fields, dict):
        collector.problem(where, "not a JSON object")
        return
    values = {"split": WHOLE, **fields, "tag": fields.get("tag") or ""}
    wrong = [key for key in ("image", "caption", "split", "tag") if not isinstance(values.get(key), str)]
    if wrong:
        collector.problem(where, f"{' and '.join(repr(key) for key in wrong)} missing or not a string")
        return
    collector.add(where, **{key: values[key] for key in ("split", "image", "caption", "tag")})


def _read_delimited(
    path: Path, images: Path, dialect: type[csv.Dialect], quoting: Literal[0, 3]
) -> dict[str, list[Row]]:
    """Read a table with a header line."""
    records = _records(path, dialect, quoting)
    _, header = next(records, (1, []))
    missing = [column for column in ("image", "caption") if column not in header]
    if missing:
        raise DataError(
            f"the header has no column {' and no column '.join(repr(column) for column in missing)}",
            where=f"{path}:1",
            why=f"its columns are: {', '.join(repr(column) for column in header) or 'none'}",
            fix=f"make the first line: image{dialect.delimiter}caption (and split, if there are splits)",
        )
    twice = [column for column in ("image", "caption", "split", "tag") if header.count(column) > 1]
    if twice:
        raise DataError(
            f"the header has the column {' and the column '.join(map(repr, twice))} more than once",
            where=f"{path}:1",
            why=f"its columns are: {', '.join(map(repr, header))}",
            fix="rename the others; a picture with several captions has several rows",
        )
    collector = RowCollector(path, images, absolute=True)
    for line, record in records:
        where = f"{path.name}:{line}"
        if len(record) != len(header):
            collector.problem(where, f"{len(record)} fields where the header has {len(header)}")
            continue
        fields = dict(zip(header, record, strict=True))
        split, tag = fields.get("split", WHOLE), fields.get("tag", "")
        collector.add(where, split=split, image=fields["image"], caption=fields["caption"], tag=tag)
    return collector.rows()


def _records(path: Path, dialect: type[csv.Dialect], quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not a blank line, with the line it starts on."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), dialect, quoting=quoting, strict=True)
    start, before = 1, csv.field_size_limit(_LONGEST_FIELD)
    try:
        for record in reader:
            if record:
                yield start, record
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            "the table cannot be read further",
            where=f"{path}:{start}",
            why=f"the record that starts at line {start}: {error}",
            fix='a field with commas or quotation marks is written "like ""this"""',
        ) from error
    finally:
        csv.field_size_limit(before)
