"""Opening every picture of a split once, before hours of training depend on them: what is damaged, what is what."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from mwactl.data.captioned import CaptionedImages
from mwactl.data.picture import decode
from mwactl.data.picture_file import PictureFile
from mwactl.data.scan_cache import Checked, ScanCache
from mwactl.data.workers import worker_count
from mwactl.errors import DataError, UsageError
from mwactl.files import sha256_bytes
from mwactl.progress import Reporter, Silent, track

_AT_A_TIME = 256  # pictures handed to the threads at once: how many an interrupt still waits for
_PROBLEMS_NAMED = 5


@dataclass(frozen=True)
class Problem:
    """A picture that cannot be used."""

    image: int
    """Its index in the split."""

    path: PictureFile
    """Its file."""

    reason: str
    """Why."""


@dataclass(frozen=True)
class ScanReport:
    """What a scan found."""

    dataset: CaptionedImages
    """The split that was scanned."""

    digests: tuple[str | None, ...]
    """SHA-256 of each picture's file, in hexadecimal; `None` where the picture cannot be used."""

    problems: tuple[Problem, ...]
    """The pictures that cannot be used, in order."""

    @property
    def bad(self) -> frozenset[int]:
        """Indices of the pictures that cannot be used, for `CaptionedImages.without`."""
        return frozenset(problem.image for problem in self.problems)

    def raise_if_any(self, on_error: Literal["stop", "skip"]) -> None:
        """Stop if pictures cannot be used, unless they are to be skipped.

        Raises:
            DataError: `on_error` is "stop" and there are problems; it names the first five and counts all.
            ValueError: `on_error` is something else.
        """
        if on_error not in ("stop", "skip"):
            raise ValueError(f"on_error is 'stop' or 'skip', not {on_error!r}")
        if on_error == "skip" or not self.problems:
            return
        count, total = len(self.problems), len(self.dataset.images)
        named = [f"{problem.path}: {problem.reason}" for problem in self.problems[:_PROBLEMS_NAMED]]
        more = [f"and {count - _PROBLEMS_NAMED:,} more"] if count > _PROBLEMS_NAMED else []
        raise DataError(
            f"{count:,} of {total:,} pictures cannot be used",
            where=f"{self.dataset.name}, split {self.dataset.split}",
            why="; ".join(named + more),
            fix="repair these files, or leave them out: data.on_error=skip (eval: --on-error skip)",
        )


def scan(dataset: CaptionedImages, *, reporter: Reporter | None = None, workers: int | None = None) -> ScanReport:
    """Open every picture of a split whole, and hash its file.

    What was found is remembered by path, size and time of change (`cache/scans`), so that a second scan only looks at
    the pictures that changed. Interrupted scans go on where they were.

    Args:
        dataset: The split.
        reporter: Hears of the progress.
        workers: Threads (Pillow decodes in parallel). Unset: one a core, at most 8.

    Raises:
        UsageError: `workers` is not positive.
        ResourceError: The disk is full.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"a scan needs at least one worker, not {workers}")
    reporter = reporter or Silent()
    cache = ScanCache(dataset.name, dataset.split, reporter)
    checked: list[Checked] = []
    try:
        label = f"scan {dataset.name}/{dataset.split}"
        for result in track(_check_all(dataset.images, cache, workers), reporter, label, len(dataset.images)):
            checked.append(result)
    finally:
        cache.save(dataset.images[: len(checked)], checked)
    problems = (
        Problem(index, dataset.images[index], result.reason)
        for index, result in enumerate(checked)
        if result.reason is not None
    )
    return ScanReport(dataset, tuple(result.digest for result in checked), tuple(problems))


def _check_all(images: tuple[PictureFile, ...], cache: ScanCache, workers: int | None) -> Iterator[Checked]:
    """Check pictures in threads; results come in order."""
    with ThreadPoolExecutor(max(1, worker_count(workers)), "scan") as pool:
        for start in range(0, len(images), _AT_A_TIME):
            yield from pool.map(lambda path: _check(path, cache), images[start : start + _AT_A_TIME])


def _check(path: PictureFile, cache: ScanCache) -> Checked:
    """Check one picture: the cache knows it, or it is read once for both the digest and the decoder."""
    try:
        stat = path.stat()
        known = cache.get(path, stat)
        if known:
            return known
        if not path.is_file():
            return Checked(None, None, None, "not a file")
        data = path.read_bytes()
    except FileNotFoundError:
        return Checked(None, None, None, "no such file")
    except OSError as error:
        # Not the picture's fault, and perhaps over next time: without a size it is not remembered.
        return Checked(None, None, None, error.strerror or str(error))
    try:
        decode(io.BytesIO(data), path)
    except DataError as error:
        return Checked(stat.st_size, stat.st_mtime_ns, None, error.why or error.what)
    return Checked(stat.st_size, stat.st_mtime_ns, sha256_bytes(data), None)
