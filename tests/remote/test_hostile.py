"""Whatever a server sends, what the user sees is an error of ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mwactl.errors import MwactlError
from mwactl.registry import Registry
from mwactl.remote import client, open_remote, plan_pull

_NAMES = ["Location", "Content-Length", "Content-Type", "WWW-Authenticate", "Retry-After", "Link", "Transfer-Encoding"]
_VALUES = [
    b"http://[", b"http://h/\xe9", b"9" * 5000, b"-5", b"text/html", b"chunked", b'Bearer realm="http://["', b"Basic",
    b'<http://[>; rel="next"', b'<?>; rel="next"', b"/v2/", b"\xff", b'Bearer realm="http://127.0.0.1:9/"',
]  # fmt: skip
_STATUS = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 302 Found", b"HTTP/1.1 401 No", b"HTTP/1.1 429 Wait", b"HTTP/1.1 99999 ?",
    b"HTTP/1.1 206 Part", b"HTTP/9", b"\xff\xfe", b"HTTP/1.1 204 None", b"",
]  # fmt: skip
_BODIES = [
    b"", b"{}", b"[]", b"[" * 100_000, b"<html>", b'{"manifests": 3}', b"-5\r\nabc", b"ffffffffffffffffffff\r\nabc",
]  # fmt: skip
headers = st.lists(
    st.tuples(st.sampled_from(_NAMES), st.sampled_from(_VALUES) | st.binary(max_size=20)), max_size=4
)  # fmt: skip


class Raw:
    """A server that sends these bytes to everybody, and hangs up."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.answer = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                if not connection.recv(65536):
                    return
                connection.sendall(self.answer)

    def close(self) -> None:
        host, _, port = self.host.partition(":")
        socket.create_connection((host, int(port))).close()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def raw() -> Iterator[Raw]:
    server = Raw()
    yield server
    server.close()


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(status=st.sampled_from(_STATUS) | st.binary(max_size=30), headers=headers,
       body=st.sampled_from(_BODIES) | st.binary(max_size=50))  # fmt: skip
def test_no_answer_of_a_registry_is_taken_for_a_bug_of_ours(
    raw: Raw, tmp_path: Path, status: bytes, headers: list[tuple[str, bytes]], body: bytes
) -> None:
    lines = [status, *(name.encode() + b": " + value for name, value in headers)]
    raw.answer = b"\r\n".join([*lines, b"", body])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_PAUSES_SECONDS", (0.0,))
        patch.setattr(client, "_TIMEOUT_SECONDS", 2.0)
        patch.setattr(client.time, "sleep", lambda seconds: None)
        with pytest.raises(MwactlError):
            plan_pull(Registry(tmp_path), open_remote(f"oci://{raw.host}/coco:v1"))
