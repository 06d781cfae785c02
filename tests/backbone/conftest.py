"""A server of one file on this machine, which can be told how to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mwactl.backbone import download


@dataclass
class FileServer:
    """One file, and how it is served.

    Args:
        content: The file.
        ranges: Whether parts are given.
        etag: Its mark; None: no mark.
        says_length: Whether the length is said beforehand.
        cuts: After how many bytes the connection of each answer in turn is cut; then none is.
        statuses: What is answered to the first requests instead.
        location: Where a redirect leads.
        kind: The Content-Type.
        shift: By how many bytes the answers in turn start later than asked for.
    """

    content: bytes
    ranges: bool = True
    etag: str | None = '"first"'
    says_length: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    location: str = ""
    kind: str = "application/octet-stream"
    shift: list[int] = field(default_factory=list)
    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def ranges_asked(self) -> list[str | None]:
        """The Range header of every request, in order."""
        return [headers.get("range") for headers in self.asked]


class _Handler(BaseHTTPRequestHandler):
    state: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        state = self.state
        state.asked.append({name.lower(): value for name, value in self.headers.items()})
        if state.statuses:
            self.send_response(state.statuses.pop(0))
            self.send_header("Location", state.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, total = self._start(), len(state.content)
        if start is not None and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if start is not None and state.shift:
            start += state.shift.pop(0)
        body = state.content[start or 0 :]
        self.send_response(200 if start is None else 206)
        self.send_header("Content-Type", state.kind)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if state.says_length:
            self.send_header("Content-Length", str(len(body)))
        if state.etag is not None:
            self.send_header("ETag", state.etag)
        self.end_headers()
        self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)
        self.close_connection = True

    def _start(self) -> int | None:
        """Where to start; None: everything is sent."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        unchanged = self.headers.get("If-Range") in (None, self.state.etag)
        return int(asked.group(1)) if asked and self.state.ranges and unchanged else None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of 300,000 bytes; failures are tried again at once."""
    monkeypatch.setattr(download, "_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = FileServer(bytes(range(256)) * 1171 + b"!" * 224)
    handler = type("Handler", (_Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/weights.pth"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the file is to lie."""
    return tmp_path / "weights" / "weights.pth"
