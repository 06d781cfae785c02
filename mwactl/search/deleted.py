"""Which rows were deleted: a small file, replaced whole. The vectors stay where they are until a compaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mwactl.errors import VerificationError
from mwactl.files import atomic_write

FILE_NAME = "deleted.json"


def read_deleted(folder: Path) -> dict[str, list[int]]:
    """The deleted rows, by part.

    Raises:
        VerificationError: The file is damaged.
    """
    path = folder / FILE_NAME
    try:
        document = json.loads(path.read_bytes())
        return {str(name): [int(row) for row in rows] for name, rows in document["rows"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VerificationError(
            "the list of deleted rows is damaged", where=str(path), why=str(error),
            fix="remove the file (nothing is then deleted), and delete again",
        ) from error  # fmt: skip


def write_deleted(folder: Path, rows: Mapping[str, list[int]]) -> None:
    """Replace the list.

    Raises:
        ResourceError: The disk is full.
    """
    document = {"schema": 1, "rows": {name: sorted(set(rows[name])) for name in sorted(rows) if rows[name]}}
    atomic_write(folder / FILE_NAME, json.dumps(document).encode("utf-8") + b"\n")
