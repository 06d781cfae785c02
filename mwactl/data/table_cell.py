"""A picture inside a table: a cell of a Parquet file, or of a saved Arrow file of Hugging Face `datasets`.

A Parquet file is read a row group at a time, which is what it is made of: in order that costs nothing, at random it
costs a row group a picture. An Arrow file is memory-mapped, and a cell is a slice of it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from mwactl.data.picture_file import Stamp, changed_since
from mwactl.errors import ResourceError

PICTURE_COLUMN = "image"
PARQUET, ARROW = ".parquet", ".arrow"
_KEPT_BYTES = 256 << 20  # row groups that a process keeps, beside the one it reads
_MAPPED_TABLES = 128  # Arrow files that a process keeps open
_FILE_MAGIC = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


def arrow(module: str = "") -> Any:
    """A module of pyarrow.

    Raises:
        ResourceError: pyarrow is not installed.
    """
    try:
        return import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise ResourceError(
            "Parquet and Arrow files need pyarrow, which is not installed",
            why="the other layouts need nothing",
            fix="pip install 'mwactl[parquet]'",
        ) from error


def damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises of a damaged file: its own errors, and Python's where columns do not fit together."""
    return (arrow().ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError)


def one_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).partition("\n")[0] or type(error).__name__


@dataclass(frozen=True, slots=True)
class TableCell:
    """A `PictureFile`.

    Args:
        table: The Parquet or Arrow file, absolute.
        stamp: Its size and time of change when its rows were read.
        group: The row group, or the record batch, that holds the row.
        row: Its number in there.
        number: Its number in the file, from 0.
        name: What the table calls the picture.
    """

    table: Path
    stamp: Stamp
    group: int
    row: int
    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.table}:{self.number + 1}"

    def is_absolute(self) -> bool:
        """Whether the table's path is."""
        return self.table.is_absolute()

    def is_file(self) -> bool:
        """Whether the table is there."""
        return self.table.is_file()

    def stat(self) -> Stamp:
        """The table's size, for a cell's is not known before it is read, and when it was last changed."""
        return Stamp.of(self.table)

    def read_bytes(self) -> bytes:
        """The picture's bytes."""
        if Stamp.of(self.table) != self.stamp:
            raise changed_since(self.table)
        try:
            cell = _GROUPS.get(self.table, self.stamp, self.group)[self.row]
        except damage() as error:
            raise OSError(f"the table is damaged: {one_line(error)}") from error
        if not cell.is_valid:
            raise OSError("the cell is empty")
        return bytes(cell.as_buffer())


def read_cells(table: Path, group: int) -> Any:
    """The bytes column of a row group, or of a record batch: a binary Arrow array.

    Raises:
        ArrowException: It cannot be read.
    """
    if table.suffix == ARROW:
        column = record_batches(table)[group].column(PICTURE_COLUMN)
    else:
        with arrow("parquet").ParquetFile(table) as file:
            nested = arrow().types.is_struct(file.schema_arrow.field(PICTURE_COLUMN).type)
            wanted = f"{PICTURE_COLUMN}.bytes" if nested else PICTURE_COLUMN
            # Without threads: a loader process is forked, and threads do not survive that.
            column = file.read_row_group(group, columns=[wanted], use_threads=False).column(0).combine_chunks()
    return column.field("bytes") if arrow().types.is_struct(column.type) else column


def record_batches(table: Path) -> list[Any]:
    """The record batches of an Arrow file, memory-mapped; `datasets` saves streams, others files with an index.

    Raises:
        ArrowException: It cannot be read.
        OSError: It is a stream that was cut, which Arrow itself takes for a shorter one.
    """
    return _record_batches(table, Stamp.of(table))


@lru_cache(_MAPPED_TABLES)  # a stream has to be walked from its beginning to find a batch
def _record_batches(table: Path, _: Stamp) -> list[Any]:
    mapped = arrow().memory_map(str(table))
    if mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
        file = arrow("ipc").open_file(mapped)
        return [file.get_batch(number) for number in range(file.num_record_batches)]
    mapped.seek(max(0, mapped.size() - len(_STREAM_END)))
    if mapped.read(len(_STREAM_END)) != _STREAM_END:
        raise OSError("the stream ends without its end mark: it was cut")
    mapped.seek(0)
    return list(arrow("ipc").open_stream(mapped))


class _Groups:
    """The row groups that were read last: pictures that are asked for in order need each of them once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, Stamp, int], Any] = OrderedDict()

    def get(self, table: Path, stamp: Stamp, group: int) -> Any:
        """A row group's cells; those of a record batch lie in the file and take no memory."""
        if table.suffix == ARROW:
            return read_cells(table, group)
        key = (table, stamp, group)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = read_cells(table, group)
                while len(self._kept) > 1 and sum(cells.nbytes for cells in self._kept.values()) > _KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


_GROUPS = _Groups()
# A forked process starts anew: another thread's lock would never be released there.
os.register_at_fork(after_in_child=_GROUPS.__init__)  # type: ignore[misc]
