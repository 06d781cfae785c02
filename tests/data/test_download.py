"""Pictures named by their addresses, fetched from a server on this machine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from mwactl.data import Catalogue, download, scan
from mwactl.data.download import fetch_pictures
from mwactl.data.web_picture import WebPicture
from mwactl.errors import DataError, NotFoundError, UsageError
from mwactl.progress import Silent


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, 4), "red").save(file, "PNG")
    return file.getvalue()


class Server(ThreadingHTTPServer):
    asked: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = self.path.split("?")[0].removeprefix("/")
        if name.startswith("moved"):
            self.send_response(302)
            self.send_header("Location", {"moved.png": "/1.png"}.get(name, "ftp://127.0.0.1/1.png"))
            self.end_headers()
            return
        if not name[:1].isdigit():
            body = {"page.png": b"<html>sorry</html>", "cut.png": png(9)}.get(name)
            self.send_response(200 if body else 404)
        else:
            body = png(int(name.removesuffix(".png")))
            self.send_response(200)
        self.send_header("Content-Length", str(len(body or b"") + (name == "cut.png")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    warn = info


def table(folder: Path, *images: str) -> Path:
    path = folder / "web.csv"
    path.write_text("image,caption\n" + "".join(f"{image},a caption\n" for image in images))
    return path


def test_addresses_are_refused_and_nothing_is_asked_for(tmp_path: Path, server: Server) -> None:
    path = table(tmp_path, f"{server.url}/1.png", f"{server.url}/2.png")
    with pytest.raises(UsageError, match=r"2 pictures of 'web' are addresses on the web.*--download"):
        Catalogue.default().add("web", annotations=path)
    assert server.asked == []
    assert Catalogue.default().entries() == []


def test_fetched_once_they_are_pictures_like_others(tmp_path: Path, server: Server, empty_home: Path) -> None:
    heard = Heard()
    path = table(tmp_path, f"{server.url}/1.png?size=full", f"{server.url}/moved.png")
    Catalogue.default().add("web", annotations=path, download=True, reporter=heard)
    assert heard.lines == ["2 of 2 pictures of the web are here"]
    assert sorted(server.asked) == ["/1.png", "/1.png?size=full", "/moved.png"]
    dataset = Catalogue.default().get("web").load("all")
    assert [image.name for image in dataset.images] == ["1.png", "moved.png"]
    assert [image.read_bytes() for image in dataset.images] == [png(1), png(1)]
    assert scan(dataset).problems == ()
    Catalogue.default().add("web", annotations=path, download=True)
    Catalogue.default().add("web", annotations=path)
    assert len(server.asked) == 3


def test_what_cannot_be_had_is_named_and_the_rest_is_kept(tmp_path: Path, server: Server) -> None:
    heard = Heard()
    names = ["1.png", "absent.png", "page.png", "cut.png", "moved-to-ftp.png"]
    path = table(tmp_path, *(f"{server.url}/{name}" for name in names), "http://127.0.0.1:1/x.png")
    Catalogue.default().add("web", annotations=path, download=True, reporter=heard)
    reasons = dict(line.removeprefix(f"{server.url}/").split(": ", 1) for line in heard.lines[:5])
    assert reasons["absent.png"] == "the server says 404 Not Found"
    assert reasons["page.png"] == "not a picture of a known format"
    assert reasons["cut.png"].startswith("the connection was lost after")
    assert reasons["moved-to-ftp.png"] == "no connection: unknown url type: ftp"
    assert "Connection refused" in reasons["http://127.0.0.1:1/x.png"]
    assert heard.lines[5] == "1 of 6 pictures of the web are here"
    assert "5 of 6 pictures are missing" in heard.lines[6]


def test_none_at_all_is_not_added(tmp_path: Path, server: Server) -> None:
    with pytest.raises(NotFoundError, match="not one of the 1 pictures is there"):
        Catalogue.default().add("web", annotations=table(tmp_path, f"{server.url}/absent.png"), download=True)


def test_a_picture_has_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MOST_BYTES", 50)
    [(picture, reason)] = fetch_pictures([WebPicture(f"{server.url}/9.png")], Silent())
    assert reason == "it has more than 0 MiB"
    assert not picture.is_file()


def test_a_dry_run_only_counts(tmp_path: Path, server: Server, empty_home: Path) -> None:
    heard = Heard()
    path = table(tmp_path, f"{server.url}/1.png")
    Catalogue.default().add("web", annotations=path, download=True, dry_run=True, reporter=heard)
    assert heard.lines == ["1 of 1 pictures of the web would be fetched"]
    assert server.asked == []
    assert not empty_home.exists()


@pytest.mark.parametrize("address", ["ftp://a/b.png", "file:///etc/passwd", "s3://a/b.png"])
def test_other_addresses_are_no_pictures(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match="an address of another kind than http and https"):
        Catalogue.default().add("web", annotations=table(tmp_path, address), download=True)
