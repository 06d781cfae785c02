"""The perceptual hashes of a data set's pictures, remembered by the pictures' digests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mwactl.data.perceptual import BITS, perceptual_hash
from mwactl.data.picture import open_image
from mwactl.data.picture_file import PictureFile
from mwactl.data.workers import worker_count
from mwactl.errors import DataError
from mwactl.files import atomic_write, canonical_json, sha256_bytes
from mwactl.home import cache_path
from mwactl.progress import Reporter, track

_VERSION = 1  # to be raised when `perceptual_hash` gives something else
_AT_A_TIME = 256  # pictures handed to the threads at once: how many an interrupt still waits for
_NOTHING = ""  # of a picture that has no hash


def hashes_of(
    name: str,
    images: Sequence[PictureFile],
    digests: Sequence[str | None],
    reporter: Reporter,
    *,
    workers: int | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The hashes of pictures, [n, 64], and which of them have one, [n]. An interruption keeps those that are done.

    Args:
        name: Of the data set, for what is remembered.
        images: The pictures.
        digests: SHA-256 of each; None: it cannot be read, and has no hash.
        reporter: Hears of the progress.
        workers: Threads (Pillow decodes in parallel). Unset: one a core, at most 8.

    Raises:
        ResourceError: The disk is full.
    """
    path = cache_path() / "perceptual" / f"{sha256_bytes(canonical_json(name))[:32]}.json"
    known = _load(path)
    first = {digest: image for image, digest in zip(images, digests, strict=True) if digest and digest not in known}
    try:
        made = _made(list(first.values()), max(1, worker_count(workers)))
        labelled = track(made, reporter, f"perceptual hashes {name}", len(first))
        for digest, text in zip(first, labelled, strict=False):
            known[digest] = text
    finally:
        if first.keys() & known.keys():
            atomic_write(path, canonical_json({"version": _VERSION, "hashes": known}))
    texts = [known.get(digest or "", _NOTHING) for digest in digests]
    data = b"".join(bytes.fromhex(text) if text else bytes(BITS // 8) for text in texts)
    hashes = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, BITS).astype(bool)  # [n * 64] -> [n, 64]
    return hashes, np.array([bool(text) for text in texts], bool)


def _made(images: Sequence[PictureFile], workers: int) -> Iterator[str]:
    with ThreadPoolExecutor(workers, "hash") as pool:
        for start in range(0, len(images), _AT_A_TIME):
            yield from pool.map(_text, images[start : start + _AT_A_TIME])


def _text(image: PictureFile) -> str:
    """The hash in hexadecimal."""
    try:
        bits = perceptual_hash(open_image(image))
    except DataError:  # it changed since the scan, which tells such pictures
        return _NOTHING
    return _NOTHING if bits is None else np.packbits(bits).tobytes().hex()


def _load(path: Path) -> dict[str, str]:
    """What is remembered; nothing if that is damaged or of another version."""
    try:
        document = json.loads(path.read_bytes())
        hashes: dict[str, str] = document["hashes"]
        whole = all(len(text) in (0, BITS // 4) and int(text or "0", 16) >= 0 for text in hashes.values())
        return hashes if document["version"] == _VERSION and whole else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
