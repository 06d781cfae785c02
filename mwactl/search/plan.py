"""What of the sources a collection lacks, decided before anything is embedded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mwactl.errors import DataError
from mwactl.search.deleted import read_deleted
from mwactl.search.item import Item
from mwactl.search.manifest import Manifest
from mwactl.search.part import check_sizes, read_items


@dataclass(frozen=True)
class Plan:
    """What there is to do."""

    todo: list[Item]
    """What is to be embedded, in the sources' order."""

    replaces: dict[str, tuple[str, int]]
    """Of these, by id, what was embedded before it changed: the part and the row in it."""

    unchanged: int
    """How many are embedded as they are."""

    ids: frozenset[str]
    """Every id of the sources."""


def make_plan(folder: Path, manifest: Manifest, items: Iterable[Item]) -> Plan:
    """Compare what the sources hold with what is embedded: by id, and by size and time of change (captions: words).

    A deleted row counts as embedded, also one whose part was taken out: what was deleted does not come back until it
    changes.

    Raises:
        DataError: One id means two things.
        VerificationError: A part is damaged.
    """
    known: dict[str, tuple[Item, str, int]] = {}
    for part in manifest.parts:
        check_sizes(folder, part)
        known |= {item.id: (item, part.name, row) for row, item in enumerate(read_items(folder, part))}
    deleted = read_deleted(folder)
    todo: list[Item] = []
    replaces: dict[str, tuple[str, int]] = {}
    seen: dict[str, str] = {}
    for item in items:
        if item.id in seen:
            raise _duplicate(item.id, seen[item.id], item.place)
        seen[item.id] = item.place
        if item.id not in known:
            if not deleted.has(item):
                todo.append(item)
            continue
        old, part_name, row = known[item.id]
        if old.is_as(item) or (deleted.has(item) and row in deleted.rows.get(part_name, ())):
            continue
        if old.path != item.path and Path(old.path).exists():  # not moved: another one
            raise _duplicate(item.id, f"{old.place} (embedded before)", item.place)
        todo.append(item)
        replaces[item.id] = (part_name, row)
    return Plan(todo, replaces, len(seen) - len(todo), frozenset(seen))


def _duplicate(name: str, first: str, second: str) -> DataError:
    return DataError(
        f"two things have the id {name!r}",
        where=f"{first} and {second}",
        why="a result would not say which one it means; nothing was embedded",
        fix="rename one, give a folder above both, or embed into two folders",
    )
