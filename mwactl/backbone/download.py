"""Fetching a large file over HTTP so that an interrupted download goes on where it stopped. No torch.

The bytes go to `FILE.part`. Beside it, `FILE.part.from` remembers the address and the server's mark of the content
(ETag or date), so that parts of two different files are never put together.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import time
from pathlib import Path
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

from mwactl.errors import MwactlError, NotFoundError
from mwactl.files import atomic_write, canonical_json, naming_write_errors, no_space
from mwactl.progress import Reporter, Silent

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0
#: How long to wait after each failure in a row; after the last one it is given up.
_PAUSES_SECONDS = (1.0, 4.0, 15.0)
_CONNECTION_ERRORS = (OSError, http.client.HTTPException)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class _LostError(Exception):
    """The connection ended before the file did, or the server asks to come again later."""


def fetch(url: str, path: Path, reporter: Reporter) -> Path:
    """Fetch `url` into `path` with `.part` added, and give that file's path: complete, but not yet checked.

    What has come stays there when it is interrupted, and the next call goes on from it.

    Raises:
        NotFoundError: The server has no such file.
        ResourceError: The disk is full.
        MwactlError: The address is not of HTTP, the server refuses, or the connection was lost several times.
    """
    if not url.startswith(("http://", "https://")):
        raise MwactlError("only http and https addresses can be fetched", where=url)
    part = path.with_name(f"{path.name}.part")
    with naming_write_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            _attempt(url, part, reporter)
            return part
        except _LostError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures > len(_PAUSES_SECONDS):
                raise MwactlError(
                    "the download was given up",
                    where=url,
                    why=f"{error} ({failures} times in a row); {_size(part):,} bytes are kept in {part}",
                    fix="check the network and type the same command again: it goes on from there;"
                    f" or {_by_hand(part)}",
                ) from error
            reporter.info(f"{error}; trying again")
            time.sleep(_PAUSES_SECONDS[failures - 1])


def _attempt(url: str, part: Path, reporter: Reporter) -> None:
    """One connection: ask for what is missing and append it; a server that sends everything is taken at its word."""
    offset, origin = _size(part), _remembered(url, part)
    if origin is None:
        offset = 0
    with _open(_request(url, offset, origin), part) as response:
        total = _total_in(response)
        if response.status == 416 and offset == total:
            return  # nothing lies behind what is here: it was complete
        if response.status in (206, 416) and not _continues(response, offset, origin):
            discard(part)
            raise _LostError("what is here is no part of what the server has")
        if response.headers.get_content_type() == "text/html":
            why = "the server sends a page to look at, perhaps one that asks to log in"
            raise MwactlError("this file cannot be fetched", where=url, why=why, fix=_by_hand(part))
        if response.status != 206:
            offset = 0
            discard(part)
            _remember(url, part, response)
        if total is not None and total - offset > shutil.disk_usage(part.parent).free:
            raise no_space(part)
        _append(response, part, offset, total, reporter)


def _request(url: str, offset: int, origin: dict[str, Any] | None) -> Request:
    """The request for what lies behind `offset`, if it is still the same content."""
    headers = {"User-Agent": "mwactl", "Accept-Encoding": "identity"}
    if offset and origin is not None:
        headers["Range"] = f"bytes={offset}-"
        if origin.get("mark"):
            headers["If-Range"] = origin["mark"]
    return Request(url, headers=headers)


def _continues(response: Any, offset: int, origin: dict[str, Any] | None) -> bool:
    """Whether a partial answer starts where the part ends, and is of a file as long as the part's."""
    found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    same_length = origin is not None and origin.get("total") in (None, _total_in(response))
    return same_length and found is not None and found.group(1) == str(offset)


def _open(request: Request, part: Path) -> Any:
    """The server's answer, if it is one to work with.

    Raises:
        NotFoundError: 404 or 410.
        MwactlError: Another refusal.
        _LostError: No connection, or the server is busy or broken.
    """
    opener = OpenerDirector()  # urllib's default one would also follow to ftp: and file:
    for handler in (
        ProxyHandler, HTTPHandler, HTTPSHandler, HTTPRedirectHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor,
        UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    try:
        return opener.open(request, timeout=_TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code == 416:
            return error
        answer = f"the server says {error.code} {error.reason}"
        error.close()
        if error.code in (408, 429) or error.code >= 500:
            raise _LostError(answer) from error
        kind = NotFoundError if error.code in (404, 410) else MwactlError
        raise kind("this file cannot be fetched", where=request.full_url, why=answer, fix=_by_hand(part)) from error
    except _CONNECTION_ERRORS as error:
        raise _LostError(f"no connection: {getattr(error, 'reason', error)}") from error


def _append(response: Any, part: Path, done: int, total: int | None, reporter: Reporter) -> None:
    """Write what the server sends behind what is here. An interruption keeps what has come."""
    listener = Silent() if total is None else reporter
    progress = listener.progress(part.name.removesuffix(".part"), total or 0, done=done)
    try:
        with naming_write_errors(part), part.open("ab") as file:
            while (total is None or done < total) and (chunk := _read(response)):
                file.write(chunk)
                done += len(chunk)
                progress.advance(len(chunk))
    finally:
        progress.close()
    if total is not None and done != total:
        raise _LostError(f"the connection was lost after {done:,} of {total:,} bytes")


def _read(response: Any) -> bytes:
    """What has arrived; nothing at the end."""
    try:
        return response.read1(_CHUNK_BYTES)  # type: ignore[no-any-return]
    except _CONNECTION_ERRORS as error:  # caught here, so that it is not taken for an error of the disk
        raise _LostError(f"the connection was lost: {error}") from error


def _total_in(response: Any) -> int | None:
    """How long the whole file is, where the server says so."""
    if response.status in (206, 416):
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        return int(found.group(2)) if found and found.group(2) != "*" else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _by_hand(part: Path) -> str:
    return f"fetch it another way and put it at {part.with_suffix('')}"


def _origin_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.from")


def _remember(url: str, part: Path, response: Any) -> None:
    """Note which content the part is of. A weak ETag (`W/…`) promises no equal bytes and does not count."""
    etag = response.headers.get("ETag", "")
    mark = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    atomic_write(_origin_path(part), canonical_json({"url": url, "mark": mark, "total": _total_in(response)}))


def _remembered(url: str, part: Path) -> dict[str, Any] | None:
    """What was noted of the part; nothing if it is of another address."""
    try:
        origin = json.loads(_origin_path(part).read_bytes())
        return origin if origin["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def discard(part: Path) -> None:
    """Forget a part, and what was noted of it."""
    with naming_write_errors(part):
        part.unlink(missing_ok=True)
        _origin_path(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
