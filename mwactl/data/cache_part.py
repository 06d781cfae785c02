"""One part of the picture cache: some hundred pictures as they are shown, in two files.

`NAME.rgb` holds their bytes, picture after picture, [h, w, 3] uint8 each. `NAME.json` says whose they are: a line with
the SHA-256 of the rest, then one JSON document. Both appear whole or not at all, the second one last: a part exists
once it does. `NAME` is the digest of the part's pictures' digests, so whoever writes the same part writes the same.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mwactl.files import atomic_file, atomic_write, canonical_json, sha256_bytes

DATA, INDEX = ".rgb", ".json"
_SCHEMA = 1


class Stored(NamedTuple):
    """Where one picture is."""

    digest: str
    """SHA-256 of the file it was decoded from."""

    offset: int
    """Of its first byte."""

    height: int
    width: int

    crc: int
    """CRC-32 of its bytes."""


@dataclass(frozen=True)
class Part:
    """What an index says.

    Args:
        path: The data file.
        dataset: The data set it was made for.
        geometry: What was done to its pictures, for people.
        size: Bytes of the data file.
        pictures: In the order of their bytes.
    """

    path: Path
    dataset: str
    geometry: str
    size: int
    pictures: tuple[Stored, ...]

    def remove(self) -> None:
        """Delete it, the index first: a part without one does not exist."""
        self.path.with_suffix(INDEX).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class DamagedPartError(Exception):
    """A part whose files are not what they were when they were written; the message says why."""


def write_part(
    folder: Path, digests: Sequence[str], pictures: Iterable[Image.Image], *, dataset: str, geometry: str
) -> Part:
    """Write the pictures, as they come, and then their index.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written to. Nothing of the part remains.
    """
    path = folder / (sha256_bytes(canonical_json(list(digests)))[:32] + DATA)
    stored: list[Stored] = []
    offset = 0
    with atomic_file(path) as file:
        for digest, picture in zip(digests, pictures, strict=True):
            data = picture.tobytes()
            stored.append(Stored(digest, offset, picture.height, picture.width, zlib.crc32(data)))
            file.write(data)
            offset += len(data)
    document = {"schema": _SCHEMA, "dataset": dataset, "geometry": geometry, "bytes": offset, "pictures": stored}
    body = canonical_json(document)
    atomic_write(path.with_suffix(INDEX), sha256_bytes(body).encode() + b"\n" + body)
    return Part(path, dataset, geometry, offset, tuple(stored))


def read_part(index: Path) -> Part:
    """Read an index, and look whether the data file has its length. (Each picture is checked when it is read.)

    Raises:
        DamagedPartError: The index is not what was written, or the data file is missing or too short or long.
    """
    try:
        checksum, _, body = index.read_bytes().partition(b"\n")
        if checksum.decode("ascii", "replace") != sha256_bytes(body):
            raise DamagedPartError("the index does not have its checksum")
        document = json.loads(body)
        if document["schema"] != _SCHEMA:
            raise DamagedPartError(f"its schema is {document['schema']}, not {_SCHEMA}")
        path = index.with_suffix(DATA)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise DamagedPartError(f"{Path(error.filename).name} is missing") from error
    except OSError as error:
        raise DamagedPartError(error.strerror or str(error)) from error
    if size != document["bytes"]:
        raise DamagedPartError(f"{path.name} has {size:,} bytes, not {document['bytes']:,}")
    pictures = tuple(Stored(*entry) for entry in document["pictures"])
    return Part(path, document["dataset"], document["geometry"], size, pictures)
