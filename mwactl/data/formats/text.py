"""Annotation files as text: UTF-8 (a byte order mark is allowed), or an error that says where it is not."""

from __future__ import annotations

import codecs
from pathlib import Path

from mwactl.errors import DataError, NotFoundError, UsageError


def annotation_file(annotations: Path | None, format_name: str) -> Path:
    """The annotation file of a format that needs one.

    Raises:
        UsageError: None was given.
    """
    if annotations is None:
        raise UsageError(f"the format '{format_name}' needs an annotation file", fix="add --annotations FILE")
    return annotations


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are.

    Raises:
        NotFoundError: There is no such file.
        DataError: It cannot be read, or is not UTF-8.
    """
    if not path.exists():
        raise NotFoundError("no such annotation file", where=str(path), fix="check --annotations")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError("cannot read the annotation file", where=str(path), why=error.strerror) from error
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = start + error.start
        line = data.count(b"\n", 0, offset) + 1
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise DataError(
            "the annotation file is not UTF-8",
            where=f"{path}:{line}",
            why=f"byte 0x{data[offset]:02x} at offset {offset:,} ({'it looks like UTF-16' if utf16 else error.reason})",
            fix=f"convert it: iconv -f {'UTF-16' if utf16 else 'LATIN1'} -t UTF-8 '{path}' > utf8-{path.name}",
        ) from error
