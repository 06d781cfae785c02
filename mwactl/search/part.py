"""The files of one part: unit rows as an .npy file, and beside them a line of JSON a row.

Shape notation: n rows of a part, e the shared space.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwactl.errors import VerificationError
from mwactl.files import atomic_write, sha256_bytes, sha256_file
from mwactl.search.item import Item
from mwactl.search.manifest import File, Manifest, Part

Vectors = NDArray[np.float16] | NDArray[np.float32]


def write_part(
    folder: Path, name: str, vectors: Vectors, items: Sequence[Item], replaces: dict[str, list[int]]
) -> Part:
    """Write the two files of a part. It belongs to the collection once a manifest lists it.

    Args:
        folder: The collection.
        name: `part-00007`.
        vectors: [n, e], rows of length one, in the collection's dtype.
        items: n of them.
        replaces: See `Part.replaces`.

    Raises:
        ResourceError: The disk is full.
    """
    lines = b"".join(json.dumps(item.as_row(), ensure_ascii=False).encode("utf-8") + b"\n" for item in items)
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(vectors), version=(1, 0), allow_pickle=False)
    data = file.getvalue()
    part = Part(name, len(items), File(sha256_bytes(data), len(data)), File(sha256_bytes(lines), len(lines)), replaces)
    atomic_write(folder / part.items_name, lines)
    atomic_write(folder / part.vectors_name, data)
    return part


def open_vectors(folder: Path, part: Part, manifest: Manifest) -> Vectors:
    """The vectors of a part, [n, e], mapped into memory: only what is used is read.

    Raises:
        VerificationError: The file is not there, not whole, or not what the manifest says.
    """
    path = folder / part.vectors_name
    try:
        vectors = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise damaged(folder, path.name, str(error)) from error
    expected = ((part.rows, manifest.width), np.dtype(manifest.dtype))
    if (vectors.shape, vectors.dtype) != expected:
        raise damaged(folder, path.name, f"it holds {vectors.dtype} {vectors.shape}, the manifest says {expected}")
    return vectors


def read_rows(folder: Path, part: Part) -> Iterator[dict[str, Any]]:
    """What the rows of a part are, in order, as they are written (`Item.as_row`).

    Raises:
        VerificationError: The file is not there, not whole, or not readable.
    """
    count = 0
    try:
        with (folder / part.items_name).open("rb") as file:
            for line in file:
                count += 1
                row = json.loads(line)
                if not {"id", "path"} <= row.keys():
                    raise ValueError("a row without id or path")
                yield row
    except (OSError, ValueError, AttributeError) as error:
        raise damaged(folder, part.items_name, f"line {count}: {error}") from error
    if count != part.rows:
        raise damaged(folder, part.items_name, f"it has {count:,} lines, the manifest says {part.rows:,}")


def read_items(folder: Path, part: Part) -> Iterator[Item]:
    """What the rows of a part are, in order.

    Raises:
        VerificationError: As `read_rows`.
    """
    return map(Item.from_row, read_rows(folder, part))


def check_sizes(folder: Path, part: Part) -> None:
    """Look whether both files are there in full length, which costs no reading.

    Raises:
        VerificationError: One is not.
    """
    for name, file in ((part.vectors_name, part.vectors), (part.items_name, part.items)):
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise damaged(folder, name, error.strerror or str(error)) from error
        if size != file.size:
            raise damaged(folder, name, f"it has {size:,} bytes, the manifest says {file.size:,}")


def check_digests(folder: Path, part: Part) -> None:
    """Read both files and compare their digests.

    Raises:
        VerificationError: A file has other bytes than were written.
    """
    check_sizes(folder, part)
    for name, file in ((part.vectors_name, part.vectors), (part.items_name, part.items)):
        if sha256_file(folder / name) != file.sha256:
            raise damaged(folder, name, "its digest is not the one in the manifest")


def damaged(folder: Path, name: str, why: str) -> VerificationError:
    """The error for a file of a collection that is not as it was written."""
    return VerificationError(
        "a part of the embeddings is missing or damaged",
        where=str(folder / name),
        why=why,
        fix=f"mwactl index {shlex.quote(str(folder))} --repair   (takes the part out; mwactl embed then makes it anew)",
    )
