"""The picture cache: a split's pictures decoded and resized once, under `cache/pictures`.

One folder a geometry, shared by every data set: a picture is known by the SHA-256 of its file, so duplicates are kept
once, and a file that changed is another picture. Everything in it can be deleted at any time and is made again.
"""

from __future__ import annotations

import io
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image

from mwactl.data.cache_part import DATA, INDEX, DamagedPartError, Part, Stored, read_part, write_part
from mwactl.data.cached import CachedPictures
from mwactl.data.geometry import Geometry
from mwactl.data.picture import decode, unreadable
from mwactl.data.picture_file import PictureFile
from mwactl.data.workers import worker_count
from mwactl.errors import DataError
from mwactl.files import naming_write_errors, no_space, sha256_bytes
from mwactl.home import cache_path
from mwactl.progress import Reporter, Silent, track

PICTURES_IN_A_PART = 512  # about 80 MB of 224 × 224; what a kill can cost is the decoding of one part
_SAMPLE = 32  # pictures that are decoded to foretell the size of all
_LEFTOVER = ".*.part"  # what `atomic_file` writes before it renames

_Source = tuple[PictureFile, str]


@dataclass(frozen=True)
class CachePlan:
    """What a build would do.

    Args:
        pictures: Different pictures of the split.
        missing: Those that the cache lacks.
        size: Bytes that these take, from the mean of a sample.
    """

    pictures: int
    missing: int
    size: int


class PictureCache:
    """The cached pictures of one geometry.

    Args:
        geometry: What is done to a picture before it is kept.
        reporter: Hears of progress, of waiting for another process, and of parts that are damaged.
    """

    def __init__(self, geometry: Geometry, *, reporter: Reporter | None = None) -> None:
        self.geometry = geometry
        self.folder = _root() / geometry.digest[:32]
        self._reporter = reporter or Silent()

    @staticmethod
    def exists() -> bool:
        """Whether any geometry has a cache."""
        return _root().is_dir()

    def open(self, images: Sequence[PictureFile], digests: Sequence[str | None]) -> CachedPictures:
        """The pictures of a split, those that are here from here. Writes nothing.

        Args:
            images: The files.
            digests: SHA-256 of each file, as the scan found it.
        """

        def skip(index: Path, why: str) -> None:
            self._warn(index, why, "its pictures are decoded each time")

        return CachedPictures(self.geometry, images, digests, _by_digest(_parts(self.folder, skip)))

    def plan(self, images: Sequence[PictureFile], digests: Sequence[str | None]) -> CachePlan:
        """What `build` would do; writes nothing.

        Raises:
            DataError: A picture of the sample cannot be read.
        """
        known = _by_digest(_parts(self.folder))
        sources = _sources(images, digests)
        missing = [source for source in sources if source[1] not in known]
        return CachePlan(len(sources), len(missing), self._size_of(missing))

    def build(
        self, dataset: str, images: Sequence[PictureFile], digests: Sequence[str | None], *, workers: int | None = None
    ) -> int:
        """Make what is missing, and say how many pictures that was.

        Parts appear one after another, whole. A build that was killed goes on with the part it was at; parts that
        are damaged are made again, with a warning; a second process waits for the first.

        Args:
            dataset: Whose pictures they are, for `remove`.
            images: The files.
            digests: SHA-256 of each file, as the scan found it.
            workers: Threads that decode (Pillow decodes in parallel). Unset: one a core, at most 8.

        Raises:
            ResourceError: The pictures need more space than there is, or the folder cannot be written to.
            DataError: A picture cannot be read, or its file is no longer the one that was scanned.
        """
        sources = _sources(images, digests)
        # First without the lock: a cache that is complete may lie where nobody can write.
        known = _by_digest(_parts(self.folder))
        if all(digest in known for _, digest in sources):
            return 0
        with _only_builder(self.folder, self._reporter):
            self._remove_remains()
            known = _by_digest(_parts(self.folder))
            missing = [source for source in sources if source[1] not in known]
            self._check_space(missing)
            self._write(dataset, missing, max(1, worker_count(workers)))
        return len(missing)

    def _write(self, dataset: str, missing: Sequence[_Source], workers: int) -> None:
        label = f"picture cache {dataset}"
        with ThreadPoolExecutor(workers, "picture-cache") as pool:
            submitted = (pool.submit(self._made, source) for source in missing)
            made = track(_in_order(submitted, ahead=4 * workers), self._reporter, label, len(missing))
            with closing(made):
                for start in range(0, len(missing), PICTURES_IN_A_PART):
                    chunk = [digest for _, digest in missing[start : start + PICTURES_IN_A_PART]]
                    write_part(
                        self.folder, chunk, islice(made, len(chunk)),
                        dataset=dataset, geometry=self.geometry.description,
                    )  # fmt: skip

    def _made(self, source: _Source) -> Image.Image:
        """Decode and resize one picture.

        Raises:
            DataError: It cannot be read, or is no longer the one that was scanned.
        """
        path, digest = source
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error.strerror or str(error)) from error
        if sha256_bytes(data) != digest:
            raise DataError(
                "the picture's file changed after it was scanned",
                where=str(path),
                why="its bytes are others, under the same size and time of change, or it was written to just now",
                fix=f"touch {path}   (and run the command again)",
            )
        try:
            return self.geometry(decode(io.BytesIO(data), path))
        except (ValueError, OSError, MemoryError) as error:
            raise unreadable(path, f"it cannot be resized: {error}") from error

    def _check_space(self, missing: Sequence[_Source]) -> None:
        need = self._size_of(missing)
        if need > shutil.disk_usage(self.folder).free:
            raise no_space(self.folder, need)

    def _size_of(self, missing: Sequence[_Source]) -> int:
        """Bytes, from the mean of a sample spread over all."""
        if not missing:
            return 0
        sample = missing[:: -(-len(missing) // _SAMPLE)]
        pictures = [self._made(source) for source in sample]
        return sum(picture.width * picture.height * 3 for picture in pictures) * len(missing) // len(sample)

    def _remove_remains(self) -> None:
        """Delete what killed builds left, and what is damaged. Only the builder may."""

        def remove(index: Path, why: str) -> None:
            self._warn(index, why, "its pictures are made again")
            index.unlink(missing_ok=True)

        whole = {part.path for part in _parts(self.folder, remove)}
        for path in [*self.folder.glob(f"[!.]*{DATA}"), *self.folder.glob(_LEFTOVER)]:
            if path not in whole:
                path.unlink(missing_ok=True)

    def _warn(self, index: Path, why: str, consequence: str) -> None:
        self._reporter.warn(f"a part of the picture cache is damaged ({index}: {why}); {consequence}")


def remove_cached(dataset: str, *, reporter: Reporter | None = None) -> int:
    """Delete the cached pictures that were made for a data set, of every geometry; gives the bytes that are free now.

    Raises:
        ResourceError: They cannot be deleted.
    """
    freed = 0
    for folder in sorted(path for path in _root().glob("*") if path.is_dir()):
        with _only_builder(folder, reporter or Silent()), naming_write_errors(folder):
            for part in _parts(folder):
                if part.dataset == dataset:
                    part.remove()
                    freed += part.size
    return freed


@contextmanager
def _only_builder(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Be the only one who writes to a folder; wait for another, and say so.

    Raises:
        ResourceError: The folder cannot be written to.
    """
    with naming_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reporter.info("another process is making this picture cache; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _root() -> Path:
    return cache_path() / "pictures"


def _sources(images: Sequence[PictureFile], digests: Sequence[str | None]) -> list[_Source]:
    """Each different picture once, in the split's order."""
    if None in digests:
        raise ValueError("a picture that cannot be read has no digest and cannot be cached; leave it out of the split")
    first: dict[str, PictureFile] = {}
    for path, digest in zip(images, digests, strict=True):
        first.setdefault(str(digest), path)
    return [(path, digest) for digest, path in first.items()]


def _parts(folder: Path, damaged: Callable[[Path, str], None] = lambda index, why: None) -> Iterator[Part]:
    """The parts that are whole; `damaged` is told of the others' indices."""
    for index in sorted(folder.glob(f"[!.]*{INDEX}")):
        try:
            yield read_part(index)
        except DamagedPartError as error:
            damaged(index, str(error))


def _by_digest(parts: Iterable[Part]) -> dict[str, tuple[Part, Stored]]:
    return {stored.digest: (part, stored) for part in parts for stored in part.pictures}


def _in_order(futures: Iterator[Future[Image.Image]], *, ahead: int) -> Iterator[Image.Image]:
    """The results in the order of submission, `ahead` of them under way: no more than that lies in memory."""
    waiting: deque[Future[Image.Image]] = deque()
    try:
        for future in futures:
            waiting.append(future)
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
