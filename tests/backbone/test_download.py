"""Downloads go on where they stopped, and never put parts of two files together."""

from __future__ import annotations

import errno
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import FileHandler, FTPHandler

import pytest

from mwactl.backbone import download
from mwactl.backbone.download import discard, fetch
from mwactl.errors import ExitCode, Interrupted, MwactlError, NotFoundError, ResourceError
from mwactl.progress import Silent

if TYPE_CHECKING:
    from .conftest import FileServer


class Listener(Silent):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.announced: list[tuple[str, int, int]] = []
        self.steps = 0
        self.closed = 0

    def info(self, message: str) -> None:
        self.messages.append(message)

    def progress(self, label: str, total: int, *, done: int = 0) -> Any:
        self.announced.append((label, total, done))
        return self

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        self.steps += steps

    def close(self) -> None:
        self.closed += 1


def interrupt_after(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """Ctrl-C once so many bytes have come."""
    read = download._read
    came = 0

    def stopping(response: Any) -> bytes:
        nonlocal came
        if came >= size_bytes:
            raise Interrupted
        chunk = read(response)
        came += len(chunk)
        return chunk

    monkeypatch.setattr(download, "_read", stopping)


def leave_a_part(server: FileServer, target: Path) -> int:
    """Interrupt a download midway; gives how many bytes are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "_CHUNK_BYTES", 10_000)
        interrupt_after(patch, 100_000)
        with pytest.raises(Interrupted):
            fetch(server.url, target, Silent())
    server.asked.clear()
    kept = target.with_name("weights.pth.part").stat().st_size
    assert 100_000 <= kept < len(server.content)
    return kept


def test_a_file_comes_as_a_part_with_its_progress_in_bytes(server: FileServer, target: Path) -> None:
    listener = Listener()
    part = fetch(server.url, target, listener)
    assert part.name == "weights.pth.part"
    assert part.read_bytes() == server.content
    assert not target.exists()
    assert listener.announced == [("weights.pth", 300_000, 0)]
    assert (listener.steps, listener.closed) == (300_000, 1)
    discard(part)
    assert list(target.parent.iterdir()) == []


def test_an_interrupted_download_goes_on_where_it_stopped(server: FileServer, target: Path) -> None:
    kept = leave_a_part(server, target)
    listener = Listener()
    assert fetch(server.url, target, listener).read_bytes() == server.content
    assert server.ranges_asked == [f"bytes={kept}-"]
    assert server.asked[0]["if-range"] == '"first"'
    assert listener.announced == [("weights.pth", 300_000, kept)]
    assert listener.steps == 300_000 - kept


def test_a_download_that_is_complete_is_not_fetched_again(server: FileServer, target: Path) -> None:
    fetch(server.url, target, Silent())
    server.asked.clear()
    listener = Listener()
    assert fetch(server.url, target, listener).read_bytes() == server.content
    assert server.ranges_asked == ["bytes=300000-"]
    assert listener.steps == 0


def test_a_file_that_has_changed_is_fetched_from_the_start(server: FileServer, target: Path) -> None:
    leave_a_part(server, target)
    server.content, server.etag = b"new" * 90_000, '"second"'
    assert fetch(server.url, target, Silent()).read_bytes() == server.content
    assert len(server.asked) == 1


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_mark_the_length_must_still_be_the_same(server: FileServer, target: Path, etag: str | None) -> None:
    server.etag = etag
    kept = leave_a_part(server, target)
    assert fetch(server.url, target, Silent()).read_bytes() == server.content
    assert server.ranges_asked == [f"bytes={kept}-"]
    assert "if-range" not in server.asked[0]

    discard(target.with_name("weights.pth.part"))
    kept = leave_a_part(server, target)
    server.content = b"new" * 90_000
    assert fetch(server.url, target, Silent()).read_bytes() == server.content
    assert server.ranges_asked == [f"bytes={kept}-", None]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: FileServer, target: Path) -> None:
    server.etag = None
    kept = leave_a_part(server, target)
    server.content = b"short"
    assert fetch(server.url, target, Silent()).read_bytes() == b"short"
    assert server.ranges_asked == [f"bytes={kept}-", None]


def test_a_part_that_starts_elsewhere_is_not_put_behind_what_is_here(server: FileServer, target: Path) -> None:
    kept = leave_a_part(server, target)
    server.shift = [7]
    assert fetch(server.url, target, Silent()).read_bytes() == server.content
    assert server.ranges_asked == [f"bytes={kept}-", None]


def test_a_part_of_another_address_or_of_none_is_not_continued(server: FileServer, target: Path) -> None:
    leave_a_part(server, target)
    assert fetch(server.url + "?other", target, Silent()).read_bytes() == server.content
    assert server.ranges_asked == [None]
    target.with_name("weights.pth.part.from").unlink()
    assert fetch(server.url, target, Silent()).read_bytes() == server.content
    assert server.ranges_asked == [None, None]


def test_a_server_without_ranges_sends_everything_again(server: FileServer, target: Path) -> None:
    server.ranges = False
    leave_a_part(server, target)
    listener = Listener()
    assert fetch(server.url, target, listener).read_bytes() == server.content
    assert listener.announced == [("weights.pth", 300_000, 0)]
    assert listener.steps == 300_000


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_is_cut_is_opened_again(server: FileServer, target: Path, ranges: bool) -> None:
    server.cuts, server.ranges = [50_000, 70_000], ranges
    listener = Listener()
    assert fetch(server.url, target, listener).read_bytes() == server.content
    assert server.ranges_asked == [None, "bytes=50000-", "bytes=120000-" if ranges else "bytes=70000-"]
    assert listener.messages[0] == "the connection was lost after 50,000 of 300,000 bytes; trying again"
    assert listener.closed == 3


def test_a_connection_that_is_cut_forever_is_given_up_and_what_came_is_kept(server: FileServer, target: Path) -> None:
    server.cuts = [50_000, *[0] * 20]
    with pytest.raises(MwactlError, match="given up") as raised:
        fetch(server.url, target, Silent())
    assert raised.value.exit_code == ExitCode.FAILED
    assert raised.value.where == server.url
    assert "lost after 50,000 of 300,000 bytes" in (raised.value.why or "")
    assert f"50,000 bytes are kept in {target}.part" in (raised.value.why or "")
    assert len(server.asked) == 4, "the first one, and a try after each pause"
    server.cuts.clear()
    assert fetch(server.url, target, Silent()).read_bytes() == server.content


def test_a_connection_that_brings_a_little_every_time_is_not_given_up(server: FileServer, target: Path) -> None:
    server.cuts = [30_000] * 9
    assert fetch(server.url, target, Silent()).read_bytes() == server.content
    assert len(server.asked) == 10


def test_a_length_that_nobody_says_is_no_reason_to_refuse(server: FileServer, target: Path) -> None:
    server.says_length = False
    listener = Listener()
    assert fetch(server.url, target, listener).read_bytes() == server.content
    assert listener.announced == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_busy_is_asked_again(server: FileServer, target: Path, status: int) -> None:
    server.statuses = [status, status]
    listener = Listener()
    assert fetch(server.url, target, listener).read_bytes() == server.content
    assert [f"the server says {status}" in message for message in listener.messages] == [True, True]
    server.statuses = [status] * 20
    with pytest.raises(MwactlError, match="given up"):
        fetch(server.url + "?again", target, Silent())


@pytest.mark.parametrize(("status", "kind"), [(404, NotFoundError), (410, NotFoundError), (403, MwactlError)])
def test_a_refusal_is_final_and_says_where_to_put_a_file_fetched_by_hand(
    server: FileServer, target: Path, status: int, kind: type[MwactlError]
) -> None:
    server.statuses = [status]
    with pytest.raises(MwactlError, match="this file cannot be fetched") as raised:
        fetch(server.url, target, Silent())
    assert type(raised.value) is kind
    assert str(status) in (raised.value.why or "")
    assert raised.value.fix == f"fetch it another way and put it at {target}"
    assert len(server.asked) == 1


def test_a_page_is_no_file_and_costs_no_part(server: FileServer, target: Path) -> None:
    kept = leave_a_part(server, target)
    server.kind, server.etag = "text/html; charset=utf-8", '"page"'
    with pytest.raises(MwactlError, match="this file cannot be fetched") as raised:
        fetch(server.url, target, Silent())
    assert "page" in (raised.value.why or "")
    assert target.with_name("weights.pth.part").stat().st_size == kept


def test_no_connection_at_all_is_given_up(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    monkeypatch.setattr(download, "_PAUSES_SECONDS", (0.0,))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/weights.pth"
        with pytest.raises(MwactlError, match="given up") as raised:
            fetch(url, target, Silent())
    assert "no connection" in (raised.value.why or "")


def test_a_server_that_falls_silent_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    monkeypatch.setattr(download, "_PAUSES_SECONDS", ())
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def answer_half() -> None:
        connection, _ = silent.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
            done.wait(10)

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        thread = threading.Thread(target=answer_half)
        thread.start()
        try:
            with pytest.raises(MwactlError, match="given up") as raised:
                fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", target, Silent())
        finally:
            done.set()
            thread.join()
    assert "timed out" in (raised.value.why or "")
    assert target.with_name("weights.pth.part").read_bytes() == b"half."


def test_redirects_are_followed_with_the_range_and_only_over_http(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for handler in (FTPHandler.ftp_open, FileHandler.file_open):
        monkeypatch.setattr(f"urllib.request.{handler.__qualname__}", lambda *_: pytest.fail("followed"))
    kept = leave_a_part(server, target)
    server.statuses, server.location = [302], "/elsewhere"
    assert fetch(server.url, target, Silent()).read_bytes() == server.content
    assert server.ranges_asked == [f"bytes={kept}-"] * 2
    for location in ("file:///etc/hostname", "ftp://127.0.0.1/x"):
        server.statuses, server.location = [302] * 9, location
        with pytest.raises(MwactlError):
            fetch(f"{server.url}?{location}", target, Silent())
        server.statuses.clear()


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "weights.pth", "data:,x"])
def test_only_http_addresses_are_fetched(target: Path, url: str) -> None:
    with pytest.raises(MwactlError, match="only http and https"):
        fetch(url, target, Silent())


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=299_999))
    with pytest.raises(ResourceError, match="the disk is full") as raised:
        fetch(server.url, target, Silent())
    assert raised.value.exit_code == ExitCode.RESOURCES
    assert not target.with_name("weights.pth.part").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    fetch(server.url, target, Silent())


def test_a_disk_that_fills_up_is_named_and_not_taken_for_a_lost_connection(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def opening(path: Path, mode: str = "r", **options: Any) -> Any:
        if mode == "ab":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, **options)

    monkeypatch.setattr(Path, "open", opening)
    with pytest.raises(ResourceError, match="the disk is full"):
        fetch(server.url, target, Silent())
    assert len(server.asked) == 1
