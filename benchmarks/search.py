"""Exact and approximate search of one collection, side by side: time, size, memory, recall.

    python benchmarks/search.py --vectors 1000000 --width 512 --threads 2
    python benchmarks/search.py --embeddings DIR        # a folder that mwactl embed wrote

Without `--embeddings` the vectors are synthetic. Independent Gaussian directions would be a wrong model of embeddings:
all are about as far from each other, which no model's output is, and a graph finds its way badly among them. These are
made as embeddings look: a common direction (the cone that a modality lies in), clusters whose sizes fall off like 1/i,
and within a cluster a spread whose variance falls off along the axes. Queries are drawn like the vectors, near a
cluster and not equal to any vector, and then moved off by as much again as the spread, as captions are from pictures.
Both kinds of search answer the same queries in the same run, through the calls that `mwactl search` makes.

Prints one JSON document. Exit code 1 if the recall@10 is below 0.95.
"""

# ruff: noqa: E402 - the thread counts must be set before the libraries load

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--vectors", type=int, default=100_000)
PARSER.add_argument("--width", type=int, default=512)
PARSER.add_argument("--threads", type=int, default=1)
PARSER.add_argument("--queries", type=int, default=100)
PARSER.add_argument("--embeddings", type=Path, help="real ones; every hundredth or so is moved a little and asked for")
PARSER.add_argument("--scratch", type=Path, help="where the synthetic collection is made (default: the system's)")
ARGUMENTS = PARSER.parse_args()
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = str(ARGUMENTS.threads)

import numpy as np
from numpy.typing import NDArray

from mwactl import __version__
from mwactl.search import Item, SearchIndex, build_index, open_index
from mwactl.search.graph import CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH, nearest, open_graph
from mwactl.search.manifest import Manifest, Model
from mwactl.search.part import write_part

K = 10
PART_ROWS = 4096
SINGLE = 50
LEAST_RECALL = 0.95
Rows = NDArray[np.float32]


class Mixture:
    """Where synthetic vectors come from."""

    def __init__(self, width: int, clusters: int) -> None:
        rng = np.random.default_rng(0)
        self.spread = (1 + np.arange(width, dtype=np.float32)) ** -0.35
        self.cone = rng.standard_normal(width, dtype=np.float32) * self.spread
        self.centres = rng.standard_normal((clusters, width), dtype=np.float32) * self.spread
        weights = 1 / (1 + np.arange(clusters))
        self.weights = weights / weights.sum()

    def draw(self, rng: np.random.Generator, number: int, *, off: float = 0.0) -> Rows:
        """[number, width] unit rows; `off` moves them by so much of the spread again."""
        of = rng.choice(len(self.centres), size=number, p=self.weights)
        own = rng.standard_normal((number, len(self.spread)), dtype=np.float32) * self.spread
        rows = self.cone + self.centres[of] + 0.6 * own
        if off:
            rows += off * 0.6 * rng.standard_normal(rows.shape, dtype=np.float32) * self.spread
        return unit(rows)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=ARGUMENTS.scratch) as scratch:
        if ARGUMENTS.embeddings:
            folder, source = ARGUMENTS.embeddings, str(ARGUMENTS.embeddings.name)
            queries = moved(open_index(folder))
        else:
            folder, source = Path(scratch) / "emb", "clusters in a cone, see the docstring"
            mixture = Mixture(ARGUMENTS.width, max(10, ARGUMENTS.vectors // 200))
            make(folder, mixture)
            queries = mixture.draw(np.random.default_rng(2), ARGUMENTS.queries, off=1.0)
        report = measure(folder, queries) | {"source": source}
    print(json.dumps(report | facts(), indent=2))
    sys.exit(0 if report["approximate"]["recall@10"] >= LEAST_RECALL else 1)


def make(folder: Path, mixture: Mixture) -> None:
    """The collection, as `mwactl embed` leaves it."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    manifest = Manifest(Model("benchmark", "0" * 64, "0" * 64), ARGUMENTS.width, "float16", "images")
    for start in range(0, ARGUMENTS.vectors, PART_ROWS):
        number = min(PART_ROWS, ARGUMENTS.vectors - start)
        items = [Item(f"{i:09}.jpg", f"/photographs/{i:09}.jpg", (i, i)) for i in range(start, start + number)]
        vectors = mixture.draw(rng, number).astype(np.float16)
        manifest = manifest.with_part(write_part(folder, f"part-{manifest.next_part:05}", vectors, items, {}))
    manifest.write(folder)


def moved(index: SearchIndex) -> Rows:
    """Queries near real embeddings: each is turned towards another one by a third."""
    rng = np.random.default_rng(2)
    rows = rng.choice(np.flatnonzero(index.alive), size=(2, ARGUMENTS.queries))
    return unit(index.vectors(rows[0]) + 0.5 * index.vectors(rows[1]))


def measure(folder: Path, queries: Rows) -> dict[str, Any]:
    index = open_index(folder)
    rows, turn = len(index), count()
    threads = ARGUMENTS.threads
    exact_hits = index.search(queries, K, exact=True)
    exact = {
        "open": timed(lambda: open_index(folder), 5),
        "single": timed(lambda: index.search(pick(queries, next(turn)), K, exact=True), 9),
        "batched_per_query": timed(lambda: index.search(queries, K, exact=True), 3, per=len(queries)),
        "vectors_mb": round(sum(part.vectors.size for part in index.manifest.parts) / 1e6, 1),
        "peak_rss_mb": peak_mb(),
    }
    say("exact", exact)
    build = timed(lambda: build_index(folder, kind="approximate", threads=threads), 1)
    build_peak = peak_mb()
    index = open_index(folder)
    graph = index.manifest.graph
    assert graph is not None
    # The first search maps the graph, and reads what one search touches.
    first = timed(lambda: index.search(queries[:1], K), 1)
    hits = index.search(queries, K, threads=threads)
    assert hits.method == "approximate", hits.notes
    approximate = {
        "build": build,
        "build_peak_rss_mb": build_peak,
        "file_mb": round(graph.file.size / 1e6, 1),
        "open": timed(lambda: open_graph(folder, graph), 5),
        "first_search": first,
        "single": timed(lambda: index.search(pick(queries, next(turn)), K), SINGLE),
        "batched_per_query": timed(lambda: index.search(queries, K, threads=threads), 5, per=len(queries)),
        "recall@10": recall(hits.rows, exact_hits.rows),
        "recall@10_of_the_graph_alone": recall(
            nearest(open_graph(folder, graph), queries, K, threads=threads), exact_hits.rows
        ),
        "parameters": {
            "connectivity": CONNECTIVITY, "expansion_add": EXPANSION_ADD, "expansion_search": EXPANSION_SEARCH
        },
    }  # fmt: skip
    say("approximate", approximate)
    numbers = {"vectors": rows, "width": index.manifest.width, "dtype": index.manifest.dtype, "queries": len(queries)}
    return numbers | {"threads": threads, "exact": exact, "approximate": approximate}


def pick(queries: Rows, number: int) -> Rows:
    return queries[number % len(queries), None]


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return round(float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)])), 4)


def timed(action: Callable[[], object], runs: int, *, per: int = 1) -> dict[str, float]:
    """The medians of some runs, in milliseconds: by the clock, and of the processor in all threads.

    On a machine that others use as well the clock says little; the processor's time still does.
    """
    clock, processor = [], []
    for _ in range(runs):
        began, worked = time.perf_counter(), time.process_time()
        action()
        clock.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    median = [1e3 * statistics.median(seconds) / per for seconds in (clock, processor)]
    return {"ms": round(median[0], 3), "cpu_ms": round(median[1], 3)}


def say(stage: str, numbers: dict[str, Any]) -> None:
    """A stage is done; the next may take minutes."""
    print(f"{stage}: {json.dumps(numbers)}", file=sys.stderr, flush=True)


def unit(rows: NDArray[Any]) -> Rows:
    normed: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return normed


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round((peak if sys.platform == "darwin" else peak * 1024) / 1e6, 1)


def facts() -> dict[str, Any]:
    return {
        "versions": {"mwactl": __version__, "python": platform.python_version(), "numpy": np.__version__,
                     "usearch": version("usearch")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip


if __name__ == "__main__":
    main()
