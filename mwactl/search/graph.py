"""The approximate index: a proximity graph (HNSW) over the rows of some parts, in a file that is mapped into memory.

The graph is made by usearch with bfloat16 vectors and inner products. It can always be made again from the vectors,
and is never changed: a new one gets a new name, and is the index as soon as the manifest names it.

Shape notation: n rows, q queries, k hits a query, e the shared space.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mwactl.errors import VerificationError
from mwactl.files import naming_write_errors, no_space, sha256_file, sync_directory
from mwactl.progress import Reporter
from mwactl.search.exact import NO_ROW
from mwactl.search.half import widen
from mwactl.search.manifest import File, Graph, Manifest
from mwactl.search.part import Vectors

if TYPE_CHECKING:
    from usearch.index import Index

CONNECTIVITY = 16
EXPANSION_ADD = 128
EXPANSION_SEARCH = 768  # 256 finds 93 of 100 nearest among a million; 768 find 98 at a fiftieth of the exact search
_ADD_ROWS = 4096  # an interrupt waits for so many at most


def build_graph(
    folder: Path,
    manifest: Manifest,
    blocks: Iterable[tuple[NDArray[np.int64], Vectors]],
    rows: int,
    *,
    threads: int,
    reporter: Reporter,
) -> Manifest:
    """Make the graph of some rows, and give the manifest that names it (which the caller writes).

    Args:
        folder: The collection.
        manifest: All of whose parts the blocks come from.
        blocks: Row numbers [n] and their vectors [n, e].
        rows: How many rows that will be.
        threads: For usearch; 0: one a core.
        reporter: Hears of the progress.

    Raises:
        ResourceError: The disk is full.
    """
    from usearch.index import Index  # in here: exact search needs nothing but NumPy

    index = Index(
        ndim=manifest.width, metric="ip", dtype="bf16",
        connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD, expansion_search=EXPANSION_SEARCH,
    )  # fmt: skip
    progress = reporter.progress("index", rows)
    try:
        for numbers, vectors in blocks:
            for start in range(0, len(numbers), _ADD_ROWS):
                keys = numbers[start : start + _ADD_ROWS]
                index.add(keys.astype(np.uint64), widen(vectors[start : start + _ADD_ROWS]), threads=threads)
                progress.advance(len(keys))
    finally:
        progress.close()
    generation = manifest.generation + 1
    name = f"index.usearch.{generation}"
    file = _save(index, folder / name)
    graph = Graph(name, generation, [part.name for part in manifest.parts], file)
    return replace(manifest, graph=graph, generation=generation)


def _save(index: Index, path: Path) -> File:
    """Save the graph under its name, complete or not at all."""
    temporary = path.with_name(f".{path.name}.new.part")
    need = index.serialized_length
    if shutil.disk_usage(path.parent).free < need:  # usearch would not say why it failed
        raise no_space(path, need)
    with naming_write_errors(path):
        try:
            index.save(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            known = File(sha256_file(temporary), temporary.stat().st_size)
            temporary.replace(path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return known


def open_graph(folder: Path, graph: Graph) -> Index:
    """The graph, mapped into memory: opening reads next to nothing.

    Raises:
        VerificationError: The file is not there, not whole, or not such a graph.
    """
    from usearch.index import Index

    path = folder / graph.name
    try:
        size = path.stat().st_size
        if size != graph.file.size:  # what is mapped is not checked by reading it
            raise ValueError(f"it has {size:,} bytes, the manifest says {graph.file.size:,}")
        index = Index.restore(path, view=True, expansion_search=EXPANSION_SEARCH)
        if index is None:
            raise ValueError("usearch finds no index in it")
    except (OSError, ValueError, RuntimeError) as error:
        raise damaged_graph(folder, graph, str(error)) from error
    return index


def damaged_graph(folder: Path, graph: Graph, why: str) -> VerificationError:
    """The error for an index file that is not as it was written."""
    return VerificationError(
        "the approximate index is missing or damaged", where=str(folder / graph.name), why=why,
        fix=f"mwactl index {shlex.quote(str(folder))} --approximate   (makes it again), or search with --exact",
    )  # fmt: skip


def nearest(index: Index, queries: NDArray[np.float32], count: int, *, threads: int = 0) -> NDArray[np.int64]:
    """About the nearest rows of each query, [q, count]; -1 where there are fewer."""
    count = min(count, len(index))
    found = np.full((len(queries), count), NO_ROW, np.int64)
    matches: Any = index.search(queries, count, threads=threads if len(queries) > 1 else 1)
    if len(queries) == 1:  # usearch then gives another type, without what was not found
        found[0, : len(matches.keys)] = matches.keys.astype(np.int64)
        return found
    wanted = np.arange(count) < matches.counts[:, None]  # [q, count]
    found[wanted] = matches.keys.astype(np.int64)[wanted]
    return found
