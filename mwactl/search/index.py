"""Search a collection: exactly, or through its approximate index; with filters, and without what was deleted.

Shape notation: n rows of all parts, numbered through in their order; q queries, k hits a query, e the shared space.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mwactl.errors import ResourceError, UsageError, VerificationError
from mwactl.search.deleted import read_deleted
from mwactl.search.exact import NO_ROW, Best, Blocks, search_exactly
from mwactl.search.graph import nearest, open_graph
from mwactl.search.half import widen
from mwactl.search.item import Item
from mwactl.search.manifest import read_manifest
from mwactl.search.part import Vectors, check_sizes, damaged, open_vectors, read_items, read_rows
from mwactl.search.where import Condition, fulfils, parse

if TYPE_CHECKING:
    from usearch.index import Index

_MOST_MAPPED = 512  # parts whose files stay open; a process may have 1,024
_FEW = 0.02
"""Where a filter leaves less of the index than this, comparing the few with the query is quicker than the graph."""
_SPARE = 2
"""So many times k are fetched: the graph's bfloat16 order is not the order of the vectors, by which hits are ranked."""
_LONGEST = 1.01
"""Of a unit row, also when it was rounded to float16: no score is larger, by the length of its query."""
_RANKED_AT_A_TIME = 256
"""Queries whose candidates' vectors are in memory together."""


class ChangedError(ResourceError):
    """A collection was compacted or indexed while it was open, and files that were still needed are gone."""


@dataclass(frozen=True)
class Hits:
    """What queries found; k is as asked for, or the number of rows where there are fewer."""

    rows: NDArray[np.int64]
    """[q, k] numbers for `SearchIndex.item`, best first; -1 where fewer than k rows can be found."""

    scores: NDArray[np.float32]
    """[q, k] inner products with the stored vectors, in float32; -inf there."""

    method: Literal["exact", "approximate"]
    """Whether every vector was compared."""

    notes: tuple[str, ...] = ()
    """What a user should know of how it was searched."""


class SearchIndex:
    """A collection, opened for reading, as it is now.

    What is embedded or deleted meanwhile is not seen. After a compaction or a new index it has to be opened again: the
    files that it has not read yet are gone then.

    Args:
        folder: What `mwactl embed` wrote.

    Raises:
        NotFoundError: There is no collection.
        IncompatibleError: A newer version made it.
        VerificationError: A file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._parts = self.manifest.parts
        for part in self._parts:
            check_sizes(folder, part)
        #: [p + 1] the number of each part's first row, and n.
        self._starts = np.cumsum([0, *(part.rows for part in self._parts)])
        self.alive = self._alive()
        self._maps: dict[int, Vectors] = {}
        self._line_ends: dict[int, NDArray[np.int64]] = {}
        self._graph: Index | None = None

    def __len__(self) -> int:
        """How many rows can be found."""
        return int(self.alive.sum())

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        where: Sequence[str] = (),
        *,
        exact: bool = False,
        threads: int = 0,
    ) -> Hits:
        """The k best rows for each query.

        Args:
            vectors: [q, e] unit rows of the model that made the collection.
            k: Hits a query.
            where: Conditions such as `year>2019`, all of which a hit fulfils.
            exact: Compare every vector, also where there is an approximate index.
            threads: Of the approximate index, for several queries; 0: one a core.

        Raises:
            UsageError: The queries' width is another, or a condition names a field that no row has.
            VerificationError: A file is damaged.
            ChangedError: The collection was changed since it was opened.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.manifest.width or k < 1:
            raise UsageError(f"queries {vectors.shape}, k {k}: they are [q, {self.manifest.width}], and k at least 1")
        queries = np.ascontiguousarray(vectors, np.float32)
        k = min(k, max(1, len(self)))
        with self._noticing_changes():
            mask = self.alive & self._where(parse(where)) if where else self.alive
            if exact or self.manifest.graph is None:
                hits = self._exactly(queries, k, mask)
            else:
                hits = self._approximately(queries, k, mask, threads)
            self._check_scores(hits, queries)
        return hits

    def found(self, hits: Hits, query: int = 0) -> Iterator[tuple[Item, float]]:
        """What a query found and its score, best first; the places that were left empty are passed over.

        Raises:
            VerificationError, ChangedError: As `search`.
        """
        for row, score in zip(hits.rows[query], hits.scores[query], strict=True):
            if row != NO_ROW:
                yield self.item(int(row)), float(score)

    def item(self, row: int) -> Item:
        """What a row is.

        Raises:
            VerificationError, ChangedError: As `search`.
        """
        with self._noticing_changes():
            return self._item(row)

    def _item(self, row: int) -> Item:
        number = self._part_of(row)
        part = self._parts[number]
        path = self.folder / part.items_name
        try:
            if number not in self._line_ends:
                content = np.fromfile(path, np.uint8)
                self._line_ends[number] = np.flatnonzero(content == ord("\n"))
            ends, line = self._line_ends[number], row - int(self._starts[number])
            start = int(ends[line - 1]) + 1 if line else 0
            with path.open("rb") as file:
                file.seek(start)
                return Item.from_row(json.loads(file.read(int(ends[line]) - start)))
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise damaged(self.folder, part.items_name, f"row {row}: {error}") from error

    def items(self) -> Iterator[Item]:
        """What all rows are, in order, the deleted and replaced ones included."""
        for part in self._parts:
            yield from read_items(self.folder, part)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of some rows: [m] -> [m, e]."""
        found = np.empty((len(rows), self.manifest.width), np.float32)
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(parts):
            here = parts == number
            found[here] = widen(self.part_vectors(int(number))[rows[here] - self._starts[number]])
        return found

    def part_vectors(self, number: int) -> Vectors:
        """The vectors of one part, as they are stored, mapped into memory."""
        if number in self._maps:
            return self._maps[number]
        vectors = open_vectors(self.folder, self._parts[number], self.manifest)
        if len(self._maps) < _MOST_MAPPED:
            self._maps[number] = vectors
        return vectors

    def blocks(self, mask: NDArray[np.bool_], first_part: int = 0) -> Blocks:
        """The vectors of the parts, from one of them on, and which of them may be found."""
        for number in range(first_part, len(self._parts)):
            start, end = int(self._starts[number]), int(self._starts[number + 1])
            chosen = mask[start:end]
            if chosen.any():
                yield start, self.part_vectors(number), None if chosen.all() else chosen

    def unindexed(self) -> int | None:
        """Rows that came after the approximate index; None where that is of other parts than there are now."""
        graph = self.manifest.graph
        names = [part.name for part in self._parts]
        if graph is None or names[: len(graph.parts)] != graph.parts:
            return None
        return int(self._starts[-1] - self._starts[len(graph.parts)])

    def _exactly(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.bool_], *notes: str) -> Hits:
        best = search_exactly(self.blocks(mask), queries, k)
        return Hits(best.rows, best.scores, "exact", notes)

    def _approximately(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.bool_], threads: int) -> Hits:
        graph = self.manifest.graph
        assert graph is not None
        new = self.unindexed()
        if new is None:
            note = f"the index is not of these parts any more, so every vector was compared; {self._index_command}"
            return self._exactly(queries, k, mask, note)
        indexed = len(mask) - new
        allowed = int(mask[:indexed].sum())
        if allowed <= max(_FEW * indexed, 4 * k):
            return self._exactly(queries, k, mask, f"few rows may be found ({allowed:,}), so every one was compared")
        if self._graph is None:
            self._graph = open_graph(self.folder, graph)
        found = self._from_graph(self._graph, queries, k, mask[:indexed], allowed, threads)
        if found is None:
            return self._exactly(queries, k, mask, "the index found too few that fulfil it, so every one was compared")
        if not new:
            return Hits(found.rows, found.scores, "approximate")
        later = search_exactly(self.blocks(mask, len(graph.parts)), queries, k)
        note = f"{new:,} vectors are newer than the index and were compared one by one; {self._index_command}"
        best = _best(np.hstack([found.rows, later.rows]), np.hstack([found.scores, later.scores]), k)
        return Hits(best.rows, best.scores, "approximate", (note,))

    def _from_graph(
        self, graph: Index, queries: NDArray[np.float32], k: int, mask: NDArray[np.bool_], allowed: int, threads: int
    ) -> Best | None:
        """The hits among the indexed rows; None if there were too few even when many more than k were asked for.

        The graph knows nothing of filters: so many are fetched that k should be left, and twice as many if not.
        """
        count = math.ceil(_SPARE * k * len(mask) / allowed)
        most = max(1024, 16 * count)
        while True:
            rows = nearest(graph, queries, count, threads=threads)  # [q, count]
            may = (rows != NO_ROW) & mask[rows]
            if (may.sum(axis=1) >= k).all():
                return self._ranked(queries, rows, may, k)
            if count >= min(most, len(graph)):
                return None
            count *= 2

    def _ranked(self, queries: NDArray[np.float32], rows: NDArray[np.int64], may: NDArray[np.bool_], k: int) -> Best:
        """The k best of candidates [q, m], by their vectors as they are stored."""
        scores = np.full(rows.shape, -np.inf, np.float32)
        for start in range(0, len(queries), _RANKED_AT_A_TIME):
            of_query, place = np.nonzero(may[start : start + _RANKED_AT_A_TIME])
            of_query += start
            distinct, which = np.unique(rows[of_query, place], return_inverse=True)
            vectors = self.vectors(distinct)
            scores[of_query, place] = np.einsum("me,me->m", vectors[which], queries[of_query])
        return _best(np.where(may, rows, NO_ROW), scores, k)

    def _where(self, conditions: Sequence[Condition]) -> NDArray[np.bool_]:
        """[n] which rows fulfil all conditions."""
        known = {"id"}
        mask = np.zeros(len(self.alive), bool)
        rows = (row for part in self._parts for row in read_rows(self.folder, part))
        for number, row in enumerate(rows):
            fields = row.get("fields", {})
            known |= fields.keys()
            mask[number] = fulfils({"id": row["id"], **fields}, conditions)
        unknown = [condition.field for condition in conditions if condition.field not in known]
        if unknown:
            raise UsageError(
                f"no row has a field {unknown[0]!r}",
                where=str(self.folder),
                why=f"the fields are: {', '.join(sorted(known))}",
                fix="filter by one of these",
            )
        return mask

    def _alive(self) -> NDArray[np.bool_]:
        """[n] which rows are neither deleted nor replaced."""
        alive = np.ones(int(self._starts[-1]), bool)
        starts = {part.name: int(start) for part, start in zip(self._parts, self._starts[:-1], strict=True)}
        rows = {part.name: part.rows for part in self._parts}
        for gone in (read_deleted(self.folder).rows, *(part.replaces for part in self._parts)):
            for name, numbers in gone.items():
                if name in starts:  # else of a part that a compaction left out
                    inside = [number for number in numbers if 0 <= number < rows[name]]
                    alive[[starts[name] + number for number in inside]] = False
        return alive

    def _check_scores(self, hits: Hits, queries: NDArray[np.float32]) -> None:
        """A search does not read every file's digest: what no unit row can score, it tells.

        Raises:
            VerificationError: A hit's vector is damaged.
        """
        most = _LONGEST * np.linalg.norm(queries, axis=1, keepdims=True)  # [q, 1]
        wrong = (hits.rows != NO_ROW) & ~(np.abs(hits.scores) <= most)  # also where they are no numbers
        if wrong.any():
            row, score = int(hits.rows[wrong][0]), float(hits.scores[wrong][0])
            name = self._parts[self._part_of(row)].vectors_name
            raise damaged(self.folder, name, f"row {row}: a score of {score:g}, which no vector of length one has")

    @contextmanager
    def _noticing_changes(self) -> Iterator[None]:
        """Files that are gone because of a compaction are not damaged.

        Raises:
            ChangedError: The collection is another than the one that was opened.
        """
        try:
            yield
        except VerificationError as error:
            if read_manifest(self.folder) == self.manifest:
                raise
            raise ChangedError(
                "the embeddings were changed meanwhile", where=str(self.folder),
                why="mwactl index or embed was at work", fix="search again",
            ) from error  # fmt: skip

    @property
    def _index_command(self) -> str:
        return f"mwactl index {shlex.quote(str(self.folder))}"

    def _part_of(self, row: int) -> int:
        if not 0 <= row < len(self.alive):
            raise IndexError(f"row {row} of {len(self.alive):,}")
        return int(np.searchsorted(self._starts, row, side="right")) - 1


def open_index(folder: Path | str) -> SearchIndex:
    """Open a collection for searching.

    Raises:
        NotFoundError: There is none.
        IncompatibleError: A newer version made it.
        VerificationError: A file is missing or damaged.
    """
    try:
        return SearchIndex(Path(folder))
    except VerificationError:
        # A compaction may have come between the manifest and its parts; what is damaged is so the second time too.
        return SearchIndex(Path(folder))


def _best(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Best:
    """The k best of [q, m] candidates; of equals the earlier row."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Best(np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1))
