"""What is done to a collection beside adding to it: check, index, delete, compact, repair.

Shape notation: n rows, e the shared space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mwactl.errors import NotFoundError, VerificationError
from mwactl.files import sha256_file
from mwactl.progress import Reporter, Silent, track
from mwactl.search.deleted import Deleted, read_deleted, write_deleted
from mwactl.search.graph import build_graph
from mwactl.search.index import SearchIndex
from mwactl.search.item import Item
from mwactl.search.lock import remove_leftovers, writing
from mwactl.search.manifest import Manifest, Part, read_manifest
from mwactl.search.part import Vectors, check_digests, write_part

ABOVE = 1_000_000
"""Above so many vectors an index is approximate, unless the user says otherwise."""

_COMPACT_ROWS = 65_536


@dataclass(frozen=True)
class Indexed:
    """What `build_index` left."""

    kind: Literal["exact", "approximate"]
    rows: int
    """Rows that can be found."""
    built: bool
    """Whether an approximate index was made now."""
    generation: int | None
    """Its number."""
    size_bytes: int
    """Its file's."""


def build_index(
    folder: Path,
    *,
    kind: Literal["exact", "approximate"] | None = None,
    above: int = ABOVE,
    threads: int = 0,
    reporter: Reporter | None = None,
) -> Indexed:
    """Check every part's bytes, and make the approximate index where the collection is large.

    Args:
        folder: The collection.
        kind: Exact: search needs no index, and one that is there is removed. None: approximate where it was so or the
            number of rows asks for it.
        above: Of more rows than this an index is approximate.
        threads: For usearch; 0: one a core.
        reporter: Hears of the progress.

    Raises:
        NotFoundError: There is no collection.
        VerificationError: A part is damaged.
        ResourceError: Another process writes to it, or the disk is full.
    """
    reporter = reporter or Silent()
    read_manifest(folder)
    with writing(folder):
        index = SearchIndex(folder)
        manifest = index.manifest
        for part in track(manifest.parts, reporter, "verify", index.alive.size, size=lambda part: part.rows):
            check_digests(folder, part)
        kind = kind or ("approximate" if manifest.graph or len(index) > above else "exact")
        built = kind == "approximate" and not _is_current(index) and len(index) > 0
        if built:
            reporter.info(f"making an approximate index of {len(index):,} vectors")
            manifest = build_graph(folder, manifest, _numbered(index), len(index), threads=threads, reporter=reporter)
        elif kind == "exact":
            manifest = replace(manifest, graph=None)
        if manifest != index.manifest:
            manifest.write(folder)
        remove_leftovers(folder, manifest)
    graph = manifest.graph
    return Indexed(
        "approximate" if graph else "exact", len(index), built,
        graph.generation if graph else None, graph.file.size if graph else 0,
    )  # fmt: skip


def delete_ids(folder: Path, ids: Sequence[str]) -> int:
    """Let these rows never be found again; the number of those that were there until now.

    Raises:
        NotFoundError: There is no row of such an id; nothing is deleted.
        ResourceError: Another process writes to it, or the disk is full.
    """
    read_manifest(folder)
    with writing(folder):
        index = SearchIndex(folder)
        wanted = set(ids)
        # Of a changed picture the replaced rows too: they would be found again without the part that replaces them.
        places = [(row, item) for row, item in enumerate(index.items()) if item.id in wanted]
        items = {item.id: item for _, item in places}
        if missing := sorted(wanted - items.keys()):
            raise NotFoundError(
                f"there is no row with the id {missing[0]!r}"
                + (f" (and {len(missing) - 1} more)" * (len(missing) > 1)),
                where=str(folder),
                why="nothing was deleted",
                fix="ids are what mwactl search prints",
            )
        starts = np.cumsum([0, *(part.rows for part in index.manifest.parts)])
        names = {part.name for part in index.manifest.parts}
        before = read_deleted(folder)
        rows = {name: rows for name, rows in before.rows.items() if name in names}
        for row, _ in places:
            number = int(np.searchsorted(starts, row, side="right")) - 1
            rows.setdefault(index.manifest.parts[number].name, []).append(row - int(starts[number]))
        write_deleted(folder, Deleted(rows, before.items | items))
        remove_leftovers(folder, index.manifest)
        return sum(bool(index.alive[row]) for row, _ in places)


def compact(folder: Path, *, rows_per_part: int = _COMPACT_ROWS, reporter: Reporter | None = None) -> int:
    """Write the rows that can be found into new, large parts, without the others; give how many rows that left out.

    An approximate index is of the old parts and goes with them. Where nothing would change, nothing is written.

    Raises:
        VerificationError: A part is damaged.
        ResourceError: Another process writes to it, or the disk is full.
    """
    reporter = reporter or Silent()
    read_manifest(folder)
    with writing(folder):
        index = SearchIndex(folder)
        manifest = index.manifest
        if not index.alive.all() or any(part.rows != rows_per_part for part in manifest.parts[:-1]):
            manifest = _compacted(index, rows_per_part, reporter)
            manifest.write(folder)
        remove_leftovers(folder, manifest)
        # Last: who reads the list with the manifest from before would find deleted rows, were their files still there.
        write_deleted(folder, Deleted())
        return len(index.alive) - len(index)


def _compacted(index: SearchIndex, rows_per_part: int, reporter: Reporter) -> Manifest:
    """The manifest of new parts with the rows that can be found."""
    manifest = replace(index.manifest, parts=[], graph=None)
    progress = reporter.progress("compact", len(index))
    try:
        for vectors, items in _rows(index, rows_per_part):
            part = write_part(index.folder, f"part-{manifest.next_part:05}", vectors, items, {})
            manifest = manifest.with_part(part)
            progress.advance(len(items))
    finally:
        progress.close()
    return manifest


def repair_parts(folder: Path) -> list[str]:
    """Take damaged parts out, so that `mwactl embed` makes their rows anew; the names of what was taken out.

    Raises:
        ResourceError: Another process writes to it, or the disk is full.
    """
    read_manifest(folder)
    with writing(folder):
        manifest = read_manifest(folder)
        broken = [part.name for part in manifest.parts if not _is_whole(folder, part)]
        gone = list(broken)
        if broken:
            manifest = replace(manifest, parts=[part for part in manifest.parts if part.name not in broken])
        graph = manifest.graph
        if graph and not _has_digest(folder / graph.name, graph.file.sha256):
            gone.append(graph.name)
            manifest = replace(manifest, graph=None)
        if gone:
            manifest.write(folder)
        remove_leftovers(folder, manifest)
        return gone


def _is_whole(folder: Path, part: Part) -> bool:
    try:
        check_digests(folder, part)
    except VerificationError:
        return False
    return True


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _is_current(index: SearchIndex) -> bool:
    """Whether the approximate index is whole, and of exactly these parts."""
    graph = index.manifest.graph
    return graph is not None and index.unindexed() == 0 and _has_digest(index.folder / graph.name, graph.file.sha256)


def _numbered(index: SearchIndex) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
    """The rows that can be found, with their numbers, part by part."""
    for start, vectors, mask in index.blocks(index.alive):
        rows = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
        yield rows + start, vectors if mask is None else vectors[rows]


def _rows(index: SearchIndex, size: int) -> Iterator[tuple[Vectors, list[Item]]]:
    """The rows that can be found, `size` at a time, as they are stored."""
    items = (item for item, alive in zip(index.items(), index.alive, strict=True) if alive)
    numbers = np.flatnonzero(index.alive)
    for start in range(0, len(numbers), size):
        chosen = numbers[start : start + size]
        # To float32 and back to what it was: no bit of it changes.
        vectors: Vectors = index.vectors(chosen).astype(index.manifest.dtype)
        yield vectors, list(islice(items, len(chosen)))
