"""What can be embedded: a folder of pictures, tar shards, tables, and files with a caption a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mwactl.data.formats.folder import PICTURE_SUFFIXES
from mwactl.data.formats.text import read_text
from mwactl.data.walk import visible_files
from mwactl.errors import DataError, NotFoundError, UsageError
from mwactl.search.item import Item, What, stamp_of
from mwactl.search.shard import read_shard
from mwactl.search.table import TABLE_SUFFIXES, read_table


def read_sources(sources: Sequence[Path], what: What) -> Iterator[Item]:
    """All items of all sources, in an order that depends on the sources alone. No picture is opened.

    Raises:
        NotFoundError: A source is not there.
        UsageError: A source is of no known kind, or holds no captions although these were asked for.
        DataError: A table or a shard cannot be read, or a source holds nothing to embed.
    """
    for source in sources:
        count = 0
        for item in _read(Path(_spelled(str(source.resolve()))), what):
            count += 1
            yield item
        if not count:
            raise DataError(
                f"there are no {'pictures' if what == 'images' else 'captions'} in it",
                where=str(source),
                why=_why_empty(source, what),
                fix="give a folder of pictures, tar shards (shards/*.tar), or a table",
            )


def _read(source: Path, what: What) -> Iterator[Item]:
    if not source.exists():
        raise NotFoundError("no such source", where=str(source), fix="check the path")
    suffix = source.suffix.lower()
    if source.is_dir():
        if what == "texts":
            raise UsageError(
                "a folder is embedded as pictures",
                where=str(source),
                fix="for --texts give a .txt file with a caption a line, a table with a column caption, or tar shards",
            )
        return _read_folder(source)
    if suffix == ".tar":
        return read_shard(source, what)
    if suffix in TABLE_SUFFIXES:
        return read_table(source, what)
    if suffix == ".txt" and what == "texts":
        return _read_lines(source)
    raise _unknown(source)


def _read_folder(folder: Path) -> Iterator[Item]:
    """The pictures at any depth, by path; hidden ones are passed over, linked folders are followed once."""
    for path in visible_files(folder):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            yield Item(_spelled(path.relative_to(folder).as_posix()), _spelled(str(path)), stamp_of(path))


def _read_lines(file: Path) -> Iterator[Item]:
    """A caption a line; blank lines are passed over. An id is the file's name and the line's number."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            yield Item(f"{file.name}:{number}", str(file), text=line.strip())


def _spelled(path: str) -> str:
    """The path, if it can be written down.

    Raises:
        DataError: It cannot: its bytes are not UTF-8.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "a file name is not UTF-8", where=ascii(path), why="results could not name it", fix="rename the file"
        ) from error
    return path


def _why_empty(source: Path, what: What) -> str:
    if source.is_dir() and any(source.rglob("*.tar")):
        return "it holds tar shards: name these themselves"
    if source.suffix == ".tar" and what == "texts":
        return "captions of a shard are its .txt members"
    return f"pictures end in {', '.join(sorted(PICTURE_SUFFIXES))}" if what == "images" else "every line is blank"


def _unknown(source: Path) -> UsageError:
    name = source.name.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        return UsageError(
            "a compressed shard cannot be read in place",
            where=str(source),
            why="a result's picture is read from the middle of its shard, and pictures are compressed already",
            fix="decompress it once (gunzip), and name the .tar",
        )
    known = f"a folder, .tar, {', '.join(sorted(TABLE_SUFFIXES))}"
    return UsageError(
        "a source of unknown kind", where=str(source), why=f"sources are {known}, and with --texts also .txt",
        fix="for single pictures name the folder that holds them",
    )  # fmt: skip
