"""What the reading of a large file found, remembered until the file changes; it can be deleted at any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mwactl.data.picture_file import Stamp
from mwactl.files import atomic_write, canonical_json, sha256_bytes
from mwactl.home import cache_path


def remembered(path: Path, reader: str, read: Callable[[], list[Any]]) -> list[Any]:
    """What `read()` gives, a list that JSON can spell; read again once the file's size or time of change is another.

    Args:
        path: The file.
        reader: Who reads, and which version of it: another one reads again.
        read: Reads the file.

    Raises:
        OSError: The file is not there.
        ResourceError: The disk is full.
    """
    cache = cache_path() / "indices" / f"{sha256_bytes(canonical_json([reader, str(path)]))[:32]}.json"
    stamp = list(Stamp.of(path))
    try:
        # A checksum before the document: what is cut or half a page is read again, and never believed.
        checksum, _, body = cache.read_bytes().partition(b"\n")
        if checksum.decode("ascii", "replace") == sha256_bytes(body):
            document = json.loads(body)
            if document["stamp"] == stamp:
                entries: list[Any] = document["entries"]
                return entries
    except OSError:
        pass
    entries = read()
    body = json.dumps({"stamp": stamp, "entries": entries}, separators=(",", ":")).encode("ascii")
    atomic_write(cache, sha256_bytes(body).encode() + b"\n" + body)
    return entries
