"""Fetching one blob so that an interrupted download goes on where it stopped, and wrong bytes are never kept.

The bytes go to a file named by the digest they must have: what is there already is part of the same content, wherever
it came from, and the digest decides at the end whether that was true.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mwactl.errors import VerificationError
from mwactl.files import naming_write_errors, sha256_file
from mwactl.progress import Progress
from mwactl.remote.client import CONNECTION_ERRORS, Http, LostError, RefusedError, header_number

_CHUNK_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]+/([0-9]+|\*)")


@dataclass(frozen=True)
class Wanted:
    """What is to be fetched."""

    url: str
    """From where."""
    digest: str
    """Its SHA-256, in hexadecimal."""
    size: int
    """How many bytes it has."""
    what: str
    """What it is to the user: `adapter.safetensors`."""


def fetch(http: Http, wanted: Wanted, folder: Path, progress: Progress) -> Path:
    """Fetch a blob into `folder`, under its digest; what an earlier attempt left there is used.

    Args:
        http: The server's client.
        wanted: The blob.
        folder: Where it goes; there is one process at a time in it.
        progress: Hears how many bytes have come.

    Raises:
        VerificationError: The bytes are not those of the digest; they are gone again.
        ResourceError: The disk is full.
        RefusedError: The server does not give it.
        MwactlError: The connection was lost several times in a row; what has come is kept.
    """
    part = folder / wanted.digest
    with naming_write_errors(part):
        resumed = _size(part) > 0
        progress.advance(_size(part))
        http.persist(lambda: _go_on(http, wanted, part, progress), where=wanted.what, moved=lambda: _size(part))
        found = sha256_file(part)
        if found == wanted.digest:
            return part
        progress.advance(-_size(part))
        part.unlink()
        if resumed:  # the beginning may be what was wrong
            return fetch(http, wanted, folder, progress)
        raise VerificationError(
            f"{wanted.what} is not what its manifest says; it was thrown away",
            where=wanted.url,
            why=f"expected sha256:{wanted.digest[:12]}…, found sha256:{found[:12]}…",
            fix="try again; if it stays so, ask whoever pushed it to push it again",
        )


def _go_on(http: Http, wanted: Wanted, part: Path, progress: Progress) -> None:
    """One attempt: from the end of the part to the end of the blob."""
    have = _size(part)
    if have > wanted.size:
        progress.advance(-have)
        part.unlink()
        have = 0
    if have == wanted.size:
        part.touch()  # an empty file needs no request
        return
    try:
        with http.exchange("GET", wanted.url, headers={"Range": f"bytes={have}-"} if have else None) as response:
            have = _start(response, have, part, progress)
            _check_length(response, have, wanted)
            with part.open("ab") as file:
                for chunk in _chunks(response):
                    have += len(chunk)
                    if have > wanted.size:
                        part.unlink()
                        raise _wrong_size(wanted, f"more than {wanted.size:,} bytes came")
                    file.write(chunk)
                    progress.advance(len(chunk))
    except RefusedError as error:
        if error.status == 416 and have:  # the server has less than what is here: one of the two is wrong
            progress.advance(-have)
            part.unlink()
            raise LostError("the server does not know the part that is here") from error
        raise
    if have < wanted.size:
        raise LostError(f"the connection ended after {have:,} of {wanted.size:,} bytes")


def _start(response: http.client.HTTPResponse, have: int, part: Path, progress: Progress) -> int:
    """Where the answer begins: at the end of the part, or (a server that knows no ranges) at the very beginning."""
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found and int(found[1]) == have:
            return have
        raise LostError("the server sent another part than was asked for")
    if have:
        progress.advance(-have)
        part.unlink()
    return 0


def _check_length(response: http.client.HTTPResponse, have: int, wanted: Wanted) -> None:
    length = header_number(response.headers, "Content-Length")
    if length is not None and have + length != wanted.size:
        raise _wrong_size(wanted, f"expected {wanted.size:,} bytes, the server has {have + length:,}")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except CONNECTION_ERRORS as error:
            raise LostError(f"the connection was lost: {error or type(error).__name__}") from error
        if not chunk:
            return
        yield chunk


def _wrong_size(wanted: Wanted, why: str) -> VerificationError:
    return VerificationError(
        f"{wanted.what} is not what its manifest says; nothing was taken",
        where=wanted.url,
        why=why,
        fix="ask whoever pushed it to push it again",
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
