"""Opened pictures, in order: threads read and decode a few ahead of the model."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from mwactl.data.picture import decode
from mwactl.data.workers import worker_count
from mwactl.errors import DataError
from mwactl.search.failures import Failure
from mwactl.search.item import Item


def decoded(items: Sequence[Item]) -> Iterator[tuple[Item, Image.Image | Failure]]:
    """The items with their pictures in RGB, or with the reason why there is none."""
    workers = max(1, worker_count(None))
    waiting: deque[tuple[Item, Future[Image.Image | Failure]]] = deque()
    with ThreadPoolExecutor(workers, "embed") as pool:
        for item in items:
            waiting.append((item, pool.submit(_picture, item)))
            if len(waiting) > 2 * workers:
                first, picture = waiting.popleft()
                yield first, picture.result()
        while waiting:
            first, picture = waiting.popleft()
            yield first, picture.result()


def _picture(item: Item) -> Image.Image | Failure:
    try:
        return decode(io.BytesIO(item.read()), Path(item.place))
    except DataError as error:
        return Failure(item.id, item.place, error.why or error.what)
