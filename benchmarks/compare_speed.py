"""Time and memory of a paired comparison on ranks of COCO 5k's size with 10,000 resamples, one thread.

    python benchmarks/compare_speed.py

Synthetic ranks: 5,000 pictures, 25,000 captions. Prints one JSON document: seconds for two and for four contestants,
with the parts by caption length, and for the intervals of one evaluation; extra peak memory; and whether the comparison
equals a literal one, which draws pictures and counts their queries one by one, on 50 of the pictures. Exit code 1 if it
does not, or if two contestants take two seconds or more. Linux and macOS (it reads the peak from getrusage).
"""

# ruff: noqa: E402 - the thread counts must be set before the libraries load

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np

from mwactl import __version__
from mwactl.evaluate.bootstrap import RESAMPLES, SEED, metric_intervals, resample
from mwactl.evaluate.paired import differences, rank_one_tests
from mwactl.evaluate.queries import QueryRanks
from mwactl.evaluate.slices import by_length, slice_differences

IMAGES, CAPTIONS_EACH = 5_000, 5
LITERAL_IMAGES, LITERAL_RESAMPLES = 50, 1_000
LIMIT_S = 2.0
RUNS = 5


def main() -> None:
    contestants = [ranks(seed, IMAGES) for seed in range(4)]
    words = np.random.default_rng(9).integers(7, 20, IMAGES * CAPTIONS_EACH)
    captions = [" ".join(["word"] * count) for count in words.tolist()]

    def compared(count: int) -> None:
        differences(resample(contestants[:count]))
        for other in contestants[1:count]:
            rank_one_tests(contestants[0], other)

    before = peak_bytes()
    two = seconds(lambda: compared(2))
    extra = peak_bytes() - before
    four = seconds(lambda: compared(4))
    sliced = seconds(lambda: slice_differences(contestants[:2], by_length(captions, contestants[0])))
    intervals = seconds(lambda: metric_intervals(contestants[0]))
    equal = equals_literal()
    report = {
        "images": IMAGES,
        "texts": IMAGES * CAPTIONS_EACH,
        "resamples": RESAMPLES,
        "threads": 1,
        "seconds": {
            "two contestants": two,
            "four contestants": four,
            "parts by length, two contestants": sliced,
            "intervals of one": intervals,
        },
        "extra_peak_mib": round(extra / 2**20, 1),
        "literal_equal": equal,
        "versions": {"mwactl": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "machine": f"{platform.system()} {platform.machine()}",
    }
    print(json.dumps(report, indent=2))
    sys.exit(0 if equal and statistics.median(two) < LIMIT_S else 1)


def ranks(seed: int, images: int) -> QueryRanks:
    rng = np.random.default_rng(seed)
    texts = images * CAPTIONS_EACH
    skill = 0.1 + 0.01 * seed
    pictures = np.repeat(np.arange(images), CAPTIONS_EACH)
    return QueryRanks(rng.geometric(skill, images), rng.geometric(skill, texts), np.arange(texts), pictures)


def seconds(work: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        found.append(round(time.perf_counter() - started, 3))
    return found


def equals_literal() -> bool:
    """Whether Δ, interval and p equal those of lists of ranks, gathered picture by picture with the same draws."""
    pair = [ranks(seed, LITERAL_IMAGES) for seed in (0, 3)]
    [found] = differences(resample(pair, resamples=LITERAL_RESAMPLES))
    drawn = np.random.default_rng([SEED, 0]).integers(LITERAL_IMAGES, size=(LITERAL_RESAMPLES, LITERAL_IMAGES)).tolist()
    equal = True
    for name, each in found.items():
        if name == "rsum":
            continue
        k = int(name.partition("@")[2])
        deltas = [recall(pair[1], name, k, draw) - recall(pair[0], name, k, draw) for draw in drawn]
        rarer = min(sum(delta <= 0 for delta in deltas), sum(delta >= 0 for delta in deltas))
        assert each.interval is not None
        equal &= bool(np.allclose(each.interval, np.quantile(deltas, [0.025, 0.975]), atol=1e-9))
        equal &= each.p == min(1.0, 2 * (1 + rarer) / (1 + LITERAL_RESAMPLES))
    return equal


def recall(of: QueryRanks, name: str, k: int, drawn: list[int]) -> float:
    queries = [int(of.image_to_text[i]) for i in drawn]
    if name.startswith("t2i"):
        queries = [int(rank) for i in drawn for rank in of.text_to_image[CAPTIONS_EACH * i : CAPTIONS_EACH * (i + 1)]]
    return 100 * sum(rank <= k for rank in queries) / len(queries)


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
