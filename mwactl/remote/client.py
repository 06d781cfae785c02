"""HTTP as the remotes need it: one server, who we are is told to nobody else, and a refusal is data.

The standard library does it all: redirects are followed here, because its own handler would carry the credentials on to
whatever host a download is redirected to.
"""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPErrorProcessor, OpenerDirector, Request, build_opener

from mwactl.errors import MwactlError
from mwactl.progress import Progress, Reporter

T = TypeVar("T")

CONNECTION_ERRORS = (OSError, http.client.HTTPException)
_TIMEOUT_SECONDS = 30.0
_MAX_REDIRECTS = 5
_MAX_REFUSAL_BYTES = 4096
#: How long a short answer may take: who sends a byte now and then never times out.
_LONGEST_ANSWER_SECONDS = 300.0
#: How long to wait after each failure in a row; after the last one it is given up.
_PAUSES_SECONDS = (1.0, 4.0, 15.0)
#: A server that asks for a longer pause is not waited for: the user decides.
_LONGEST_PAUSE_SECONDS = 30.0
_COME_AGAIN = (408, 429, 500, 502, 503, 504)
_HEADER_NUMBER = re.compile(r"[0-9]{1,15}")
_URL = re.compile(r"https?://[^@\s/?#]+(?:[/?#]\S*)?", re.IGNORECASE)
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED)


class Headers(Protocol):
    """What is asked of an answer's headers; case does not matter in their names."""

    def get(self, name: str, default: Any, /) -> Any:
        """The value of a header, or the default."""


class RefusedError(Exception):
    """The server answered, and it was no success.

    Args:
        status: The HTTP status.
        headers: The answer's headers.
        detail: What the answer says, shortened.
    """

    def __init__(self, status: int, headers: Headers, detail: str) -> None:
        super().__init__(f"HTTP {status} {detail}".strip())
        self.status = status
        self.headers = headers
        self.detail = detail

    @property
    def retry_after_s(self) -> int | None:
        """How long the server asks to wait, where it says so in seconds."""
        return header_number(self.headers, "Retry-After")


class LostError(Exception):
    """The connection ended before the answer did."""


class Identity(Protocol):
    """Who we are to one server."""

    def header(self) -> str | None:
        """The `Authorization` header to send."""

    def challenged(self, challenge: str) -> bool:
        """Hear a `WWW-Authenticate`; whether the request is worth repeating."""


class Http:
    """A client for one server.

    Args:
        origin: `https://host[:port]`: the only place that learns who we are.
        identity: Who we are.
        reporter: Hears that something is tried again.
    """

    def __init__(self, origin: str, identity: Identity, reporter: Reporter) -> None:
        self.origin = origin_of(parse_url(origin))
        self._identity = identity
        self._reporter = reporter
        self._opener = _opener()

    @contextmanager
    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Path | None = None,
        progress: Progress | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request; inside the block its successful answer can be read.

        Args:
            method: GET, HEAD, POST, PUT.
            url: A whole address, or a path at the origin.
            headers: More of them.
            body: Bytes, or the file that holds them.
            progress: Hears how many bytes of the body were sent.

        Raises:
            RefusedError: The answer's status is no success.
            LostError: There was no answer, or the sending was cut off.
            MwactlError: The server cannot be reached at all, or redirects to where it must not.
        """
        response = self._answer(method, parse_url(url, base=self.origin), dict(headers or {}), body, progress)
        try:
            if not 200 <= response.status < 300:
                raise _refusal(response)
            yield response
        finally:
            response.close()

    def _answer(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Path | None, progress: Progress | None
    ) -> http.client.HTTPResponse:
        identified = False
        for _ in range(_MAX_REDIRECTS + 1):
            known_here = origin_of(url) == self.origin
            authorization = self._identity.header() if known_here else None
            sent = headers | ({"Authorization": authorization} if authorization else {})
            response = self._send(method, url, sent, body, progress)
            challenge = response.headers.get("WWW-Authenticate")
            if response.status == 401 and known_here and challenge and not identified:
                response.close()
                identified = True
                if self._identity.challenged(challenge):
                    continue
                raise RefusedError(401, response.headers, "")
            location = response.headers.get("Location")
            if response.status in (301, 302, 303, 307, 308) and location and method in ("GET", "HEAD"):
                response.close()
                url = redirected(url, location)
                continue
            return response
        raise MwactlError("the server redirects in circles", where=url, fix="check the address")

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Path | None, progress: Progress | None
    ) -> http.client.HTTPResponse:
        headers = {"User-Agent": "mwactl", **headers}
        try:
            if not isinstance(body, Path):
                return self._open(Request(url, data=body, headers=headers, method=method))
            with body.open("rb") as file:
                headers["Content-Length"] = str(body.stat().st_size)
                return self._open(Request(url, data=_Watched(file, progress), headers=headers, method=method))
        except URLError as error:
            if _is_unreachable(error.reason):
                raise unreachable(origin_of(url), error.reason) from error
            raise LostError(f"the connection was lost: {error.reason}") from error
        except CONNECTION_ERRORS as error:
            raise LostError(f"the connection was lost: {error or type(error).__name__}") from error

    def _open(self, request: Request) -> http.client.HTTPResponse:
        response: http.client.HTTPResponse = self._opener.open(request, timeout=_TIMEOUT_SECONDS)
        return response

    def persist(self, action: Callable[[], T], *, where: str, moved: Callable[[], int] = lambda: 0) -> T:
        """Try again while the connection is lost or the server asks to come later, up to three times in a row.

        Args:
            action: What to do, once.
            where: What it is about, for the error.
            moved: A number that grows when an attempt got further; then the count starts anew.

        Raises:
            RefusedError: As `action`, after the last attempt or where the server asks for a long pause.
            MwactlError: The connection was lost several times in a row.
        """
        failures = 0
        while True:
            before = moved()
            try:
                return action()
            except LostError as error:
                failures = 1 if moved() > before else failures + 1
                if failures > len(_PAUSES_SECONDS):
                    raise MwactlError(
                        "the connection was lost several times in a row; it was given up",
                        where=where,
                        why=str(error),
                        fix="check the network and type the same command again: what was finished is not repeated",
                    ) from error
                pause_s, said = _PAUSES_SECONDS[failures - 1], str(error)
            except RefusedError as error:
                failures += 1
                if error.status not in _COME_AGAIN or failures > len(_PAUSES_SECONDS):
                    raise
                pause_s, said = error.retry_after_s or _PAUSES_SECONDS[failures - 1], f"the server says {error}"
                if pause_s > _LONGEST_PAUSE_SECONDS:
                    raise
            self._reporter.info(f"{said}; trying again")
            time.sleep(pause_s)


def read_all(response: http.client.HTTPResponse, limit_bytes: int, *, where: str) -> bytes:
    """A whole answer that is meant to be short.

    Raises:
        LostError: It ended early.
        MwactlError: It is longer than `limit_bytes`.
    """
    if response.headers.get_content_type() == "text/html":
        raise MwactlError(
            "a web page came instead of an answer",
            where=where,
            fix="check the address, and whether the network asks for a login in a browser first",
        )
    data, deadline = bytearray(), time.monotonic() + _LONGEST_ANSWER_SECONDS
    try:
        while len(data) <= limit_bytes and (piece := response.read1(limit_bytes + 1 - len(data))):
            data += piece
            if time.monotonic() > deadline:
                raise _unusable("the server's answer takes too long", where, f"{len(data):,} bytes have come")
    except CONNECTION_ERRORS as error:
        raise LostError(f"the connection was lost: {error or type(error).__name__}") from error
    if len(data) > limit_bytes:
        raise _unusable("the server's answer is too long", where, f"at most {limit_bytes:,} bytes are read")
    promised = header_number(response.headers, "Content-Length")
    if promised is not None and len(data) < promised:
        raise LostError(f"the connection ended after {len(data):,} of {promised:,} bytes")
    return bytes(data)


def header_number(headers: Headers, name: str) -> int | None:
    """The number in a header; None where there is none that makes sense."""
    value: str = headers.get(name, "").strip()
    return int(value) if _HEADER_NUMBER.fullmatch(value) else None


def parse_url(text: str, *, base: str = "") -> str:
    """A whole address of HTTP, as it can be asked for.

    Args:
        text: The address, or a path at `base`.
        base: A whole address.

    Raises:
        MwactlError: It is none: servers send anything.
    """
    try:
        url = urljoin(base, text)
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        usable = url.isascii() and url.isprintable() and _URL.fullmatch(url) and parts.hostname and parts.port != 0
    except ValueError:
        usable = None
    if not usable:
        raise _unusable("this address cannot be used", base or text[:80], f"it is {text[:80]!r}" if base else None)
    return url


def _unusable(what: str, where: str, why: str | None) -> MwactlError:
    return MwactlError(what, where=where, why=why, fix="check the address, or tell whoever runs the server")


def unreachable(place: str, reason: object) -> MwactlError:
    """The error for a server that does not answer at all."""
    fix = "check the network and the address, then type the same command again"
    if isinstance(reason, ssl.SSLError):
        fix = "check the address; a registry of your own that knows no encryption needs --plain-http"
    return MwactlError(f"{urlsplit(place).netloc or place} cannot be reached", why=str(reason), fix=fix)


def origin_of(url: str) -> str:
    """`https://host[:port]` of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


class _AsItIs(HTTPErrorProcessor):
    """Hands out every answer, whatever its status: redirects and refusals are dealt with here."""

    def http_response(self, request: Request, response: Any) -> Any:
        return response

    https_response = http_response


class _Watched:
    """A file that tells how much of it was sent."""

    def __init__(self, file: Any, progress: Progress | None) -> None:
        self._file, self._progress = file, progress

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        if self._progress is not None:
            self._progress.advance(len(data))
        return data


def _opener() -> OpenerDirector:
    return build_opener(_AsItIs)


def redirected(url: str, location: str) -> str:
    """Where an answer from `url` sends us.

    Raises:
        MwactlError: To something else than HTTP, out of encryption, or to no address at all.
    """
    scheme = location.partition(":")[0].lower() if "://" in location else ""
    allowed = ("https",) if urlsplit(url).scheme == "https" else ("http", "https")
    if scheme and scheme not in allowed:
        raise MwactlError(
            "the server redirects to an address that is not safe",
            where=url,
            why=f"it leads to {location[:80]!r}",
            fix="tell whoever runs the server",
        )
    return parse_url(location, base=url)


def _refusal(response: http.client.HTTPResponse) -> RefusedError:
    try:
        text = response.read(_MAX_REFUSAL_BYTES).decode("utf-8", "replace")
    except CONNECTION_ERRORS:
        text = ""
    return RefusedError(response.status, response.headers, " ".join(text.split())[:200])


def _is_unreachable(reason: object) -> bool:
    if isinstance(reason, socket.gaierror | ssl.SSLError | ConnectionRefusedError | TimeoutError):
        return True
    return isinstance(reason, OSError) and reason.errno in _UNREACHABLE
