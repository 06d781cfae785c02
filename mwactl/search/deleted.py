"""What was deleted: a small file, replaced whole. The vectors stay where they are until a compaction."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from mwactl.errors import VerificationError
from mwactl.files import atomic_write
from mwactl.search.item import Item

FILE_NAME = "deleted.json"


@dataclass(frozen=True)
class Deleted:
    """What was deleted, twice: where it is, for searching, and what it was, for when its part is made anew."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    """The rows, by part."""

    items: dict[str, Item] = field(default_factory=dict)
    """The pictures and captions, by id, as they were then; without their fields."""

    def has(self, item: Item) -> bool:
        """Whether this was deleted, and has not changed since."""
        return item.id in self.items and self.items[item.id].is_as(item)


def read_deleted(folder: Path) -> Deleted:
    """What was deleted from a collection.

    Raises:
        VerificationError: The file is damaged.
    """
    path = folder / FILE_NAME
    try:
        document = json.loads(path.read_bytes())
        rows = {str(name): [int(row) for row in rows] for name, rows in document["rows"].items()}
        items = [Item.from_row(row) for row in document.get("items", [])]
    except FileNotFoundError:
        return Deleted()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VerificationError(
            "the list of deleted rows is damaged", where=str(path), why=str(error),
            fix="remove the file (nothing is then deleted), and delete again",
        ) from error  # fmt: skip
    return Deleted(rows, {item.id: item for item in items})


def write_deleted(folder: Path, deleted: Deleted) -> None:
    """Replace the list.

    Raises:
        ResourceError: The disk is full.
    """
    document = {
        "schema": 1,
        "rows": {name: sorted(set(rows)) for name, rows in sorted(deleted.rows.items()) if rows},
        "items": [replace(item, fields={}).as_row() for item in deleted.items.values()],
    }
    atomic_write(folder / FILE_NAME, json.dumps(document, ensure_ascii=False).encode("utf-8") + b"\n")
