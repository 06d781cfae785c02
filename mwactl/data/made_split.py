"""A data set that was divided anew: an index file in the home says which picture is in which split.

The pictures and captions stay where they are and as they are: the index names the source's pictures, nothing else.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mwactl.data.formats import READERS, Row
from mwactl.errors import DataError, NotFoundError
from mwactl.files import atomic_write
from mwactl.home import home

FORMAT = "split"
"""What the catalogue calls it."""

_SCHEMA = 1


@dataclass(frozen=True)
class MadeSplit:
    """What an index file says."""

    source: str
    """The name that the source had."""

    format: str
    """Its layout: a key of `READERS`."""

    annotations: Path | None
    """Its annotation file."""

    images: Path
    """Its folder."""

    options: Mapping[str, Any]
    """How it was divided: the seed, the shares, and what counted as the same picture."""

    splits: Mapping[str, Sequence[str]]
    """For each split its pictures, by what the source calls them."""


def index_path(name: str) -> Path:
    """Where the index of a data set is."""
    return home() / "splits" / f"{name}.json"


def write_made_split(path: Path, made: MadeSplit) -> None:
    """Write an index file.

    Raises:
        ResourceError: The disk is full.
    """
    document = {
        "schema": _SCHEMA,
        "source": {
            "name": made.source,
            "format": made.format,
            "annotations": str(made.annotations) if made.annotations else None,
            "images": str(made.images),
        },
        "options": made.options,
        "splits": made.splits,
    }
    # ASCII with escapes: file names need not be valid Unicode.
    atomic_write(path, json.dumps(document, indent=1).encode("ascii") + b"\n")


def read_made_split(path: Path, source_name: str | None = None) -> MadeSplit:
    """Read an index file.

    Args:
        path: The file.
        source_name: What was divided, for the way out where the file does not say it any more.

    Raises:
        NotFoundError: There is none.
        DataError: It is not what was written.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {document['schema']}, not {_SCHEMA}")
        source = document["source"]
        annotations = source["annotations"]
        return MadeSplit(
            source["name"],
            source["format"],
            None if annotations is None else Path(annotations),
            Path(source["images"]),
            dict(document["options"]),
            {split: list(pictures) for split, pictures in document["splits"].items()},
        )
    except FileNotFoundError as error:
        fix = f"divide what it was made of again: {_made_with(path, source_name)}"
        raise NotFoundError("the index of these splits is gone", where=str(path), fix=fix) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "the index of these splits is damaged",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            fix=f"divide what it was made of again: {_made_with(path, source_name)}",
        ) from error


def read_split_rows(index: Path, source_name: str | None = None) -> dict[str, list[Row]]:
    """The source's rows, divided as the index says (see `Reader`, and `read_made_split` for the arguments).

    Raises:
        DataError: The source has other pictures than when it was divided.
    """
    made = read_made_split(index, source_name)
    split_of = {picture: split for split, pictures in made.splits.items() for picture in pictures}
    rows = pooled(READERS[made.format](made.annotations, made.images))
    names = {str(row.image) for row in rows}
    if names != split_of.keys():
        new, gone = len(names - split_of.keys()), len(split_of.keys() - names)
        raise DataError(
            f"'{made.source}' changed after it was divided",
            where=str(made.annotations or made.images),
            why=f"{new:,} pictures are new, {gone:,} are gone",
            fix=f"divide it again: {_made_with(index, made.source, made.options)}",
        )
    splits: dict[str, list[Row]] = {split: [] for split in made.splits}
    for row in rows:
        splits[split_of[str(row.image)]].append(row)
    return splits


def _made_with(index: Path, source: str | None, options: Mapping[str, Any] | None = None) -> str:
    """The command that makes an index anew; options that are not known are the user's to give."""
    given = [word for name, value in (options or {}).items() for word in (f"--{name}", str(value))]
    return shlex.join(["mwactl", "data", "split", source or "SOURCE", "--as", index.stem, *given, "--replace"])


def pooled(splits: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The rows of all splits; a row that an earlier split has as well is taken once."""
    pool: list[Row] = []
    seen: set[Row] = set()
    for rows in splits.values():
        pool += [row for row in rows if row not in seen]
        seen.update(rows)
    return pool
