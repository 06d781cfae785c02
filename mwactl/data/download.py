"""Fetching pictures that are named by their addresses. What has come stays; the next call fetches what is missing."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from mwactl.data.picture import decode
from mwactl.data.web_picture import WebPicture
from mwactl.errors import DataError
from mwactl.files import atomic_write
from mwactl.progress import Reporter, track

_AT_ONCE = 8  # connections
_AT_A_TIME = 64  # handed to the threads at once: how many an interrupt still waits for
_TIMEOUT_SECONDS = 30.0
MOST_BYTES = 32 << 20


def fetch_pictures(pictures: Sequence[WebPicture], reporter: Reporter) -> list[tuple[WebPicture, str]]:
    """Fetch pictures, and give those that could not be had, each with the reason.

    A picture is kept only if it can be opened: what a server sends instead of one (a page that says sorry) is not.

    Raises:
        ResourceError: The disk is full, or the home cannot be written to.
    """
    failures = []
    with ThreadPoolExecutor(_AT_ONCE, "download") as pool:
        for picture, reason in track(_fetched(pool, pictures), reporter, "pictures fetched", len(pictures)):
            if reason:
                failures.append((picture, reason))
    return failures


def _fetched(pool: ThreadPoolExecutor, pictures: Sequence[WebPicture]) -> Iterator[tuple[WebPicture, str | None]]:
    for start in range(0, len(pictures), _AT_A_TIME):
        some = pictures[start : start + _AT_A_TIME]
        yield from zip(some, pool.map(_fetch, some), strict=True)


def _fetch(picture: WebPicture) -> str | None:
    """Fetch one picture; gives the reason why it could not be had."""
    try:
        request = Request(picture.url, headers={"User-Agent": "mwactl"})
        with _opener().open(request, timeout=_TIMEOUT_SECONDS) as response:
            data = response.read(MOST_BYTES + 1)
            length = response.headers.get("Content-Length", "")
        if len(data) > MOST_BYTES:
            return f"it has more than {MOST_BYTES >> 20} MiB"
        if length.isdecimal() and len(data) != int(length):
            return f"the connection was lost after {len(data):,} of {int(length):,} bytes"
        decode(io.BytesIO(data), picture)
    except HTTPError as error:
        reason = f"the server says {error.code} {error.reason}"
        error.close()
        return reason
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no connection: {getattr(error, 'reason', error)}"
    except DataError as error:
        return error.why or error.what
    atomic_write(picture.path, data)
    return None


def _opener() -> Any:
    """An opener for http and https alone, also after a redirection: urllib's own would follow one to `ftp:`."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler, HTTPHandler, HTTPSHandler, HTTPRedirectHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor,
        UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
