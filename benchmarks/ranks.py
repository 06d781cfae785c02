"""Time and memory of `mwactl.evaluate.ranks` on embeddings of COCO 5k's size, one thread.

    python benchmarks/ranks.py

Synthetic unit vectors: 5,000 images, 25,000 captions (5 an image), 768 wide. Prints one JSON document: seconds and
extra peak memory of both directions together, and whether the ranks equal those of the plain dense computation on a
smaller problem full of ties. Exit code 1 if they do not. Linux and macOS (it reads the peak from getrusage).
"""

# ruff: noqa: E402 - the thread counts must be set before the libraries load

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np
import torch

from mwactl import __version__
from mwactl.evaluate.ranks import BLOCK_BYTES, Embeddings, Indices, retrieval_ranks

IMAGES, CAPTIONS_EACH, WIDTH = 5_000, 5, 768
SMALL_IMAGES = 500
RUNS = 3


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pairs = own_pairs(IMAGES)
    images = unit_vectors(rng, IMAGES)
    texts = unit_vectors(rng, IMAGES * CAPTIONS_EACH)
    for start in range(0, len(texts), 1_000):  # captions point towards their image, in slices: no large temporary
        part = texts[start : start + 1_000]
        part += 0.1 * images[pairs[start : start + 1_000, 0]]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    retrieval_ranks(images[:64], texts[: 64 * CAPTIONS_EACH], pairs[: 64 * CAPTIONS_EACH])  # libraries allocate once

    before = peak_bytes()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        ranks = retrieval_ranks(images, texts, pairs)
        seconds.append(round(time.perf_counter() - started, 2))
    extra = peak_bytes() - before

    equal = equals_dense(rng)
    report = {
        "images": IMAGES,
        "texts": IMAGES * CAPTIONS_EACH,
        "width": WIDTH,
        "threads": 1,
        "block_mib": BLOCK_BYTES // 2**20,
        "seconds": seconds,
        "extra_peak_mib": round(extra / 2**20, 1),
        "ties": ranks.ties,
        "dense_equal": equal,
        "versions": {
            "mwactl": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, torch kernels {torch.backends.cpu.get_cpu_capability()}",
    }
    print(json.dumps(report, indent=2))
    sys.exit(0 if equal else 1)


def own_pairs(images: int) -> Indices:
    """[images * captions, 2] (image index, text index)."""
    return np.stack([np.repeat(np.arange(images), CAPTIONS_EACH), np.arange(images * CAPTIONS_EACH)], axis=1)


def unit_vectors(rng: np.random.Generator, count: int) -> Embeddings:
    """[count, WIDTH], drawn slice by slice so that the peak is the array itself."""
    vectors = np.empty((count, WIDTH), np.float32)
    for start in range(0, count, 1_000):
        part = vectors[start : start + 1_000]
        rng.standard_normal(dtype=np.float32, out=part)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def equals_dense(rng: np.random.Generator) -> bool:
    """Whether ranks equal the dense computation where float32 is exact and ties abound: 64 entries of ±1/8."""
    pairs = own_pairs(SMALL_IMAGES)
    images = rng.choice(np.array([-0.125, 0.125], np.float32), (SMALL_IMAGES, 64))
    texts = rng.choice(np.array([-0.125, 0.125], np.float32), (len(pairs), 64))
    ranks = retrieval_ranks(images, texts, pairs)
    scores = images @ texts.T
    own = np.zeros(scores.shape, bool)
    own[pairs[:, 0], pairs[:, 1]] = True
    equal = True
    for score, mine, found in ((scores, own, ranks.image_to_text), (scores.T, own.T, ranks.text_to_image)):
        best = np.where(mine, score, -np.inf).max(axis=1, keepdims=True)
        equal &= bool(np.array_equal(1 + ((score >= best) & ~mine).sum(axis=1), found))
    return equal


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
