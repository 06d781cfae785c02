"""Data sets of many files: which files a path or a pattern means, and which split each is of."""

from __future__ import annotations

import re
from collections.abc import Collection
from glob import glob, has_magic
from itertools import product
from math import prod
from pathlib import Path

from mwactl.data.formats.rows import WHOLE
from mwactl.data.walk import visible_files
from mwactl.errors import NotFoundError, UsageError

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""How splits are called in the names of files and folders, and here."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_FIRST_WORD = re.compile(r"[a-z]+")
_MOST_SHARDS = 1_000_000


def is_pattern(path: Path) -> bool:
    """Whether a path stands for several: it has `{000..127}`, `{a,b}`, `*`, `?` or `[…]`, and is not there itself."""
    return not path.exists() and (has_magic(str(path)) or _BRACES.search(str(path)) is not None)


def shards_of(source: Path, suffixes: Collection[str]) -> list[Path]:
    """The files that are meant: one file, those of a folder at any depth (by name), or what a pattern gives, in order.

    Raises:
        NotFoundError: One of them is not there, or there is none.
        UsageError: A range in braces cannot be used.
    """
    if source.is_dir():
        found = [path for path in visible_files(source) if path.suffix.lower() in suffixes]
        return sorted(found) or _none(source, f"no {' or '.join(suffixes)} file is in this folder")
    if not is_pattern(source):
        return [source] if source.is_file() else _none(source, "no such file")
    found = []
    base = _base(source)  # its own brackets mean themselves
    for name in _without_braces(str(source.relative_to(base))):
        matches = sorted(glob(name, root_dir=base, recursive=True)) if has_magic(name) else [name]  # noqa: PTH207
        found += [base / match for match in matches]
    missing = [path for path in found if not path.is_file()]
    if missing:
        return _none(missing[0], f"{len(missing):,} of {len(found):,} files of {source} are missing")
    return found or _none(source, "no file has such a name")


def split_in_name(shard: Path, source: Path) -> str | None:
    """The split that a shard's name begins with (`train-00000.parquet`), or that a folder is called; None: none is.

    Of the folders only those count that the source leaves open: where it lies says nothing.
    """
    word = _FIRST_WORD.match(shard.name.lower())
    if word and word[0] in SPLIT_NAMES:
        return SPLIT_NAMES[word[0]]
    folders = shard.parent.relative_to(_base(source)).parts
    return next((SPLIT_NAMES[name.lower()] for name in reversed(folders) if name.lower() in SPLIT_NAMES), None)


def _base(source: Path) -> Path:
    """The folder that all files of a source are in."""
    if source.is_dir():
        return source
    return next(parent for parent in source.parents if not is_pattern(parent)) if is_pattern(source) else source.parent


def assigned_splits(shards: Collection[Path], source: Path) -> dict[Path, str | None]:
    """The split of each shard. None of them names one: everything is one split. Some do: the others have `None`."""
    named = {shard: split_in_name(shard, source) for shard in shards}
    return named if any(named.values()) else dict.fromkeys(shards, WHOLE)


def _without_braces(pattern: str) -> list[str]:
    """`a{0..2}` -> a0, a1, a2, with leading zeros kept; `{train,val}` -> train, val."""
    parts = _BRACES.split(pattern)  # text, braces, text, braces, …, text
    choices: list[list[str]] = [[part] if index % 2 == 0 else _alternatives(part) for index, part in enumerate(parts)]
    if prod(map(len, choices)) > _MOST_SHARDS:
        raise UsageError(f"more than {_MOST_SHARDS:,} files are meant by {pattern}", fix="write ranges as {000..127}")
    return ["".join(chosen) for chosen in product(*choices)]


def _alternatives(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if not first <= last < first + _MOST_SHARDS:
        raise UsageError(f"the range {{{inside}}} counts nothing", fix="write it as {000..127}")
    return [f"{number:0{len(numbers[1])}}" for number in range(first, last + 1)]


def _none(where: Path, why: str) -> list[Path]:
    fix = "give a file, a folder, or a pattern in quotation marks: 'shards/{000..127}.tar'"
    raise NotFoundError("the data set's files are not there", where=str(where), why=why, fix=fix)
