from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError
from mwactl.progress import Silent
from mwactl.remote import client
from mwactl.remote.client import Http, LostError, RefusedError, header_number, read_all, redirected


class Somebody:
    """An identity that says a password at once, and hears challenges."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers) or ["Basic c2VjcmV0"]
        self.heard: list[str] = []

    def header(self) -> str | None:
        return self.answers[0]

    def challenged(self, challenge: str) -> bool:
        self.heard.append(challenge)
        if len(self.answers) == 1:
            return False
        self.answers.pop(0)
        return True


def get(http: Http, path: str = "/file") -> bytes:
    with http.exchange("GET", path) as response:
        return read_all(response, 1000, where="here")


@pytest.fixture
def http(script: Any) -> Http:
    return Http(script.origin, Somebody(), Silent())


def test_an_answer_is_read_to_its_end(script: Any, http: Http) -> None:
    script.plain((200, b"hello"))
    assert get(http) == b"hello"
    assert script.asked[0].headers["authorization"] == "Basic c2VjcmV0"


def test_a_redirect_to_another_host_does_not_carry_the_credentials(script: Any, http: Http) -> None:
    elsewhere = script.origin.replace("127.0.0.1", "localhost")
    script.plain((307, b"", {"Location": f"{elsewhere}/store"}), (200, b"from there"))
    assert get(http) == b"from there"
    assert [("authorization" in asked.headers) for asked in script.asked] == [True, False]


def test_a_redirect_at_the_same_host_carries_them(script: Any, http: Http) -> None:
    script.plain((302, b"", {"Location": "/store"}), (200, b"from there"))
    assert get(http) == b"from there"
    assert script.asked[1].path == "/store" and "authorization" in script.asked[1].headers


def test_redirects_in_circles_end(script: Any, http: Http) -> None:
    script.plain((302, b"", {"Location": "/file"}))
    with pytest.raises(MwactlError, match="redirects in circles"):
        get(http)
    assert len(script.asked) == 6


@pytest.mark.parametrize(
    ("url", "location"),
    [("https://a/x", "http://a/x"), ("https://a/x", "file:///etc/passwd"), ("http://a/x", "ftp://a/x")],
)
def test_a_redirect_never_leaves_encryption_or_http(url: str, location: str) -> None:
    with pytest.raises(MwactlError, match="redirects to an address that is not safe"):
        redirected(url, location)


@pytest.mark.parametrize(
    "location",
    [
        "http://[",
        "http://h/\xe9",
        "http://\xe9/",
        "http://" + "a" * 70 + "/",
        "http://a..b/",
        "http://h:99999/",
        "http://h:x/",
        "http://user:secret@h/",
        "http://h/a b",
    ],
)
def test_a_redirect_to_no_address_is_refused(script: Any, http: Http, location: str) -> None:
    script.plain((302, b"", {"Location": location}))
    with pytest.raises(MwactlError, match=r"cannot be used.*tell whoever runs the server"):
        get(http)
    assert len(script.asked) == 1


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1e3", "\xb2", "", "9" * 16])
def test_a_number_in_a_header_that_makes_no_sense_is_none(script: Any, http: Http, number: str) -> None:
    script.plain((429, b"", {"Retry-After": number}))
    with pytest.raises(RefusedError) as caught:
        get(http)
    assert caught.value.retry_after_s is None
    assert header_number({"Content-Length": number}, "Content-Length") is None


def test_an_answer_of_five_thousand_digits_of_length_is_read(script: Any, http: Http) -> None:
    script.plain((200, b"hello", {"Content-Length": "9" * 5000}))
    assert get(http) == b"hello"


def test_an_answer_that_only_trickles_is_given_up(script: Any, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_LONGEST_ANSWER_SECONDS", -1.0)
    script.plain((200, b"hello"))
    with pytest.raises(MwactlError, match="takes too long"):
        get(http)


def test_an_upload_is_not_redirected(script: Any, http: Http) -> None:
    script.plain((307, b"", {"Location": "/elsewhere"}))
    with pytest.raises(RefusedError) as caught, http.exchange("PUT", "/file", body=b"data"):
        pass
    assert caught.value.status == 307 and len(script.asked) == 1


def test_a_challenge_is_answered_once(script: Any) -> None:
    identity = Somebody("Basic old", "Basic new")
    script.respond = lambda asked: (
        script.answer(200, b"in")
        if asked.headers["authorization"] == "Basic new"
        else script.answer(401, headers={"WWW-Authenticate": "Basic realm=x"})
    )
    assert get(Http(script.origin, identity, Silent())) == b"in"
    identity.answers = ["Basic wrong", "Basic wrong too", "Basic never"]
    with pytest.raises(RefusedError) as caught:
        get(Http(script.origin, identity, Silent()))
    assert caught.value.status == 401
    assert identity.answers == ["Basic wrong too", "Basic never"]


def test_a_refusal_says_what_the_server_said(script: Any, http: Http) -> None:
    script.plain((403, b"not\n you", {"Retry-After": "7"}))
    with pytest.raises(RefusedError) as caught:
        get(http)
    assert (caught.value.status, caught.value.detail, caught.value.retry_after_s) == (403, "not you", 7.0)


def test_a_body_is_sent_from_a_file_and_counted(script: Any, http: Http, tmp_path: Path) -> None:
    class Count(list[int]):
        def advance(self, steps: int = 1, *, note: str = "") -> None:
            self.append(steps)

        def close(self) -> None:
            pass

    (tmp_path / "file").write_bytes(b"x" * 20_000)
    script.plain((201,))
    count = Count()
    with http.exchange("PUT", "/file", body=tmp_path / "file", progress=count):
        pass
    assert script.asked[0].body == b"x" * 20_000
    assert sum(count) == 20_000


def test_an_answer_that_ends_early_is_lost_and_a_long_one_is_refused(script: Any, http: Http) -> None:
    script.plain((200, b"hello", {}, 3))
    with pytest.raises(LostError, match="after 3 of 5 bytes"):
        get(http)
    script.plain((200, b"x" * 1001))
    with pytest.raises(MwactlError, match="answer is too long"):
        get(http)


def test_a_server_that_is_not_there_is_not_tried_again(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it was tried again"))
    nobody = Http("http://127.0.0.1:9", Somebody(), Silent())
    with pytest.raises(MwactlError, match=r"127.0.0.1:9 cannot be reached.*refused.*check the network"):
        nobody.persist(lambda: get(nobody), where="here")


def test_a_server_without_encryption_is_recognised(script: Any) -> None:
    encrypted = Http(script.origin.replace("http:", "https:"), Somebody(), Silent())
    with pytest.raises(MwactlError, match=r"cannot be reached.*needs --plain-http"):
        get(encrypted)


def test_a_busy_server_is_asked_again_and_given_up_in_the_end(script: Any, http: Http) -> None:
    script.plain((503,), (429, b"", {"Retry-After": "0"}), (200, b"at last"))
    assert http.persist(lambda: get(http), where="here") == b"at last"
    script.plain((503, b"closed"))
    with pytest.raises(RefusedError, match="HTTP 503 closed"):
        http.persist(lambda: get(http), where="here")
    assert len(script.asked) == 3 + 4


def test_a_pause_is_as_long_as_the_server_asks_but_not_for_ever(
    script: Any, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    script.plain((429, b"", {"Retry-After": "12"}), (200, b"now"))
    assert http.persist(lambda: get(http), where="here") == b"now"
    script.plain((429, b"", {"Retry-After": "3600"}))
    with pytest.raises(RefusedError):
        http.persist(lambda: get(http), where="here")
    assert pauses == [12.0]


def test_a_refusal_that_time_does_not_mend_is_not_tried_again(script: Any, http: Http) -> None:
    script.plain((403,))
    with pytest.raises(RefusedError):
        http.persist(lambda: get(http), where="here")
    assert len(script.asked) == 1


def test_a_lost_connection_is_given_up_after_three_more_attempts_without_progress(script: Any, http: Http) -> None:
    script.plain((200, b"hello", {}, 3))
    with pytest.raises(MwactlError, match=r"several times in a row.*what was finished is not repeated"):
        http.persist(lambda: get(http), where="here")
    assert len(script.asked) == len(client._PAUSES_SECONDS) + 1
