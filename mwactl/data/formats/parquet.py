"""Tables with the pictures inside: Parquet files, and folders that Hugging Face `datasets` wrote.

The columns are `image` (a structure of `bytes` and `path`, the bytes alone, or a path as in CSV), `caption` (or
`captions`, `text`; a text or a list of texts), and where there are any `split` and `tag`. Without `split` the names of
the files or of their folders tell it (`data/train-00000-of-00004.parquet`, `validation/data-00000-of-00001.arrow`);
without either everything is one split, `all`. Rows with the same picture, by name and bytes, are captions of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from mwactl.data.formats.rows import Row, RowCollector
from mwactl.data.formats.shards import assigned_splits, shards_of
from mwactl.data.index_cache import remembered
from mwactl.data.picture_file import PictureFile, Stamp
from mwactl.data.table_cell import (
    ARROW,
    PARQUET,
    PICTURE_COLUMN,
    TableCell,
    arrow,
    damage,
    one_line,
    read_cells,
    record_batches,
)
from mwactl.errors import DataError
from mwactl.files import sha256_bytes

_READER = "parquet 2"  # to be raised when `_entries` gives something else for the same table
_CAPTION_COLUMNS = ("caption", "captions", "text")
_NAME_DIGITS = 16  # of the digest, which names a picture that the table does not name
_NEITHER = False  # what stands in an index for a value that is no text


class _Group(NamedTuple):
    """The light columns of a row group, or of a record batch: a value a row."""

    number: int
    captions: list[Any]
    splits: list[Any]
    tags: list[Any]
    names: list[str | None]
    embedded: list[bool]
    """Whether the row holds the picture's bytes."""


class _Entry(NamedTuple):
    """What is remembered of a row."""

    number: int
    """Of the row, from 0."""

    place: list[int] | None
    """Row group, row in it, row in the file, of the picture's bytes; None: `name` is its path."""

    name: str | None
    caption: Any
    split: Any
    tag: Any


def read_parquet(annotations: Path | None, images: Path) -> dict[str, list[Row]]:
    """Read all splits of Parquet or Arrow tables (see `Reader`): `annotations` is the file, the folder or the pattern.

    `images` is where paths start.
    """
    source = annotations or images
    collector = RowCollector(source, images, absolute=True)
    for table, split in assigned_splits(tables_of(source), source).items():
        stamp = Stamp.of(table)
        for fields in remembered(table, _READER, lambda table=table: _entries(table)):  # type: ignore[misc]
            entry = _Entry(*fields)
            where = f"{table.name}:{entry.number + 1}"
            if entry.place is None:
                picture: str | PictureFile = entry.name or ""
            else:
                group, row, number = entry.place
                picture = TableCell(table, stamp, group, row, number, PurePath(entry.name or "").name)
            _add(collector, where, picture, entry, split)
    return collector.rows()


def tables_of(source: Path) -> list[Path]:
    """The tables that are meant; of a folder, Parquet files or else Arrow files, without what `datasets` caches."""
    found = shards_of(source, {PARQUET, ARROW})
    if not source.is_dir():
        return found
    kept = [path for path in found if path.suffix == PARQUET] or found
    return [path for path in kept if not path.name.startswith("cache-")]


def _add(collector: RowCollector, where: str, picture: str | PictureFile, entry: _Entry, split: str | None) -> None:
    """Take a row's captions."""
    captions = [entry.caption] if isinstance(entry.caption, str) else entry.caption
    split = split if entry.split is None else entry.split
    if not captions:
        collector.problem(where, "there is no caption, a text or a list of texts")
    elif not isinstance(split, str):
        collector.problem(where, "neither the column 'split' nor the file's name says which split it is of")
    elif not isinstance(entry.tag, str | None):
        collector.problem(where, "'tag' is not a text")
    else:
        # In a list the same words may have been written twice; two rows that are the same are one.
        several = len(captions) > 1
        for number, caption in enumerate(captions):
            sentence = number if several else None
            collector.add(where, split=split, image=picture, caption=caption, sentence=sentence, tag=entry.tag or "")


def _entries(table: Path) -> list[Any]:
    """What is remembered of each row of a table.

    Raises:
        DataError: It cannot be read, or has not the columns.
    """
    try:
        groups = list(_arrow_groups(table) if table.suffix == ARROW else _parquet_groups(table))
        rows = [
            _Entry(
                number,
                [group.number, row, number] if group.embedded[row] else None,
                group.names[row],
                *(_text(column[row]) for column in (group.captions, group.splits, group.tags)),
            )
            for number, (group, row) in enumerate((group, row) for group in groups for row in range(len(group.names)))
        ]
        return _with_the_same_picture(table, rows)
    except damage() as error:
        raise DataError(
            "the table cannot be read", where=str(table), why=one_line(error), fix="fetch or write this file again"
        ) from error


def _with_the_same_picture(table: Path, rows: list[_Entry]) -> list[_Entry]:
    """Let rows of one picture have one place; a name that is not the only one of its kind is compared by bytes."""
    names = Counter(entry.name for entry in rows if entry.place)
    first: dict[tuple[str | None, str], _Entry] = {}
    cells: tuple[int, Any] = (-1, None)
    result = []
    for entry in rows:
        if entry.place and (not entry.name or names[entry.name] > 1):
            group, row, _ = entry.place
            if cells[0] != group:
                cells = (group, read_cells(table, group))
            digest = sha256_bytes(cells[1][row].as_buffer())
            same = first.setdefault((entry.name, digest), entry)
            entry = entry._replace(place=same.place, name=entry.name or digest[:_NAME_DIGITS])  # noqa: PLW2901
        result.append(entry)
    return result


def _text(value: Any) -> Any:
    """A text, a list of texts, nothing, or `_NEITHER`."""
    texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return value if value is None or isinstance(value, str) or texts else _NEITHER


def _parquet_groups(table: Path) -> Iterator[_Group]:
    with arrow("parquet").ParquetFile(table) as file:
        columns = _Columns(file.schema_arrow, table)
        for number in range(file.num_row_groups):
            light = file.read_row_group(number, columns=columns.light, use_threads=False)
            yield columns.group(number, light)


def _arrow_groups(table: Path) -> Iterator[_Group]:
    for number, batch in enumerate(record_batches(table)):
        yield _Columns(batch.schema, table).group(number, batch)


class _Columns:
    """Which columns of a table say what.

    Raises:
        DataError: There is no picture column, or no caption column.
    """

    def __init__(self, schema: Any, table: Path) -> None:
        self._table = table
        types = arrow().types
        self._caption = next((name for name in _CAPTION_COLUMNS if name in schema.names), None)
        if self._caption is None or PICTURE_COLUMN not in schema.names:
            raise _no_columns(table, f"its columns are: {', '.join(map(repr, schema.names)) or 'none'}")
        twice = [name for name in (PICTURE_COLUMN, self._caption, "split", "tag") if schema.names.count(name) > 1]
        if twice:
            raise _no_columns(table, f"it has several columns {' and several columns '.join(map(repr, twice))}")
        kind = schema.field(PICTURE_COLUMN).type
        self._nested = types.is_struct(kind)
        inside = [field.name for field in kind] if self._nested else []
        is_path = types.is_string(kind) or types.is_large_string(kind)
        own = kind.field("bytes").type if "bytes" in inside else kind
        self._holds_bytes = types.is_binary(own) or types.is_large_binary(own) or types.is_null(own)
        if not (self._holds_bytes or is_path):
            raise _no_columns(table, f"'{PICTURE_COLUMN}' is of the type {kind}")
        named = kind.field("path").type if "path" in inside else None
        if named is not None and not any(is_(named) for is_ in (types.is_string, types.is_large_string, types.is_null)):
            raise _no_columns(table, f"'{PICTURE_COLUMN}.path' is of the type {named}")
        path = f"{PICTURE_COLUMN}.path" if "path" in inside else PICTURE_COLUMN if is_path else None
        self._path = path
        self._more = {name: name if name in schema.names else None for name in ("split", "tag")}
        self.light = [name for name in (self._caption, path, *self._more.values()) if name]

    def group(self, number: int, rows: Any) -> _Group:
        """The light columns of some rows, which may be a table or a record batch.

        Which rows hold bytes is told by reading these, once: a file's statistics say it too, but pyarrow dies of
        damaged ones.
        """
        nothing: list[Any] = [None] * rows.num_rows
        embedded = [False] * rows.num_rows
        if self._holds_bytes:
            embedded = read_cells(self._table, number).is_valid().to_pylist()
        splits, tags = (rows.column(name).to_pylist() if name else nothing for name in self._more.values())
        names = nothing
        if self._path:
            column = rows.column(PICTURE_COLUMN)
            names = (_field(column, "path") if self._nested else column).to_pylist()
        return _Group(number, rows.column(self._caption).to_pylist(), splits, tags, names, embedded)


def _field(column: Any, name: str) -> Any:
    """A field of a structure column, which may come in chunks."""
    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    return column.field(name)


def _no_columns(table: Path, why: str) -> DataError:
    return DataError(
        "the table has not the columns of a data set",
        where=str(table),
        why=why,
        fix="name them `image` (bytes, a path, or both) and `caption`, and `split` and `tag` where there are any",
    )
