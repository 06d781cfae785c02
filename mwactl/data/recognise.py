"""Which layout a data set has, by its files: `--format auto`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mwactl.data.formats import READERS
from mwactl.data.formats.folder import PICTURE_SUFFIXES
from mwactl.data.formats.json_file import read_json
from mwactl.data.formats.shards import is_pattern, shards_of
from mwactl.data.walk import visible_files
from mwactl.errors import NotFoundError, UsageError

_BY_SUFFIX = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".arrow": "parquet", ".tar": "webdataset",
}  # fmt: skip
_IN_FOLDERS = {suffix: _BY_SUFFIX[suffix] for suffix in (".tar", ".parquet", ".arrow")}


def recognise(annotations: Path | None, images: Path | None) -> str:
    """A key of `READERS`.

    Raises:
        NotFoundError: A file or folder is not there.
        UsageError: It is none of the layouts, or looks like two of them.
        DataError: A JSON file cannot be read.
    """
    source = annotations or images
    if source is None:
        raise UsageError("nothing was given", fix="give --annotations FILE, --images DIR, or both")
    if is_pattern(source):
        return _of_files(source, shards_of(source, _BY_SUFFIX))
    if not source.exists():
        raise NotFoundError("no such file or folder", where=str(source), fix="check the path")
    if source.is_file():
        return _of_files(source, [source])
    if annotations is not None and any(path.suffix == ".json" for path in source.glob("captions_*")):
        return "coco"
    return _of_folder(source, pictures=annotations is None)


def _of_files(source: Path, files: Iterable[Path]) -> str:
    """The layout of files, by their suffix; of JSON, by what is in the first."""
    files = list(files)
    if any(".tar." in path.name.lower() or path.suffix.lower() == ".tgz" for path in files):
        return "webdataset"  # compressed, as its reader tells
    suffixes = {path.suffix.lower() for path in files}
    if suffixes == {".json"}:
        return _of_json(files[0])
    return _the_only({_BY_SUFFIX[suffix] for suffix in suffixes if suffix in _BY_SUFFIX}, source)


def _of_json(path: Path) -> str:
    document: Any = read_json(path)
    keys = document if isinstance(document, dict) else {}
    images = keys.get("images")
    if isinstance(images, list) and isinstance(keys.get("annotations"), list):
        return "coco"
    if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
        return "karpathy"
    return _the_only(set(), path)


def _of_folder(folder: Path, *, pictures: bool) -> str:
    suffixes = {path.suffix.lower() for path in visible_files(folder)}
    found = {layout for suffix, layout in _IN_FOLDERS.items() if suffix in suffixes}
    if pictures and suffixes & PICTURE_SUFFIXES and ".txt" in suffixes:
        found.add("folder")
    return _the_only(found, folder)


def _the_only(layouts: set[str], where: Path) -> str:
    if len(layouts) == 1:
        return layouts.pop()
    raise UsageError(
        "the layout is not clear" if layouts else "this is none of the layouts that are known",
        where=str(where),
        why=f"it looks like {' and '.join(sorted(layouts))}" if layouts else f"these are: {', '.join(READERS)}",
        fix="say which: --format csv",
    )
