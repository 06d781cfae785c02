from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError, ResourceError, VerificationError
from mwactl.files import sha256_bytes
from mwactl.progress import Silent
from mwactl.remote.client import Http, RefusedError
from mwactl.remote.fetch import Wanted, fetch

CONTENT = bytes(range(256)) * 400
DIGEST = sha256_bytes(CONTENT)


class Nobody:
    def header(self) -> str | None:
        return None

    def challenged(self, challenge: str) -> bool:
        return False


class Count:
    done = 0

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        self.done += steps

    def close(self) -> None:
        pass


@pytest.fixture
def http(script: Any) -> Http:
    script.respond = lambda asked: script.ranged(asked, CONTENT)
    return Http(script.origin, Nobody(), Silent())


@pytest.fixture
def wanted(script: Any) -> Wanted:
    return Wanted(f"{script.origin}/blob", DIGEST, len(CONTENT), "adapter.safetensors")


def ranges(script: Any) -> list[str | None]:
    return [asked.headers.get("range") for asked in script.asked]


def test_a_blob_comes_whole_and_is_counted(script: Any, http: Http, wanted: Wanted, tmp_path: Path) -> None:
    count = Count()
    assert fetch(http, wanted, tmp_path, count).read_bytes() == CONTENT
    assert count.done == len(CONTENT)


def test_an_earlier_part_is_gone_on_from(script: Any, http: Http, wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / DIGEST).write_bytes(CONTENT[:5000])
    count = Count()
    assert fetch(http, wanted, tmp_path, count).read_bytes() == CONTENT
    assert ranges(script) == ["bytes=5000-"]
    assert count.done == len(CONTENT)


def test_a_blob_that_came_whole_before_is_hashed_and_not_fetched(
    script: Any, http: Http, wanted: Wanted, tmp_path: Path
) -> None:
    (tmp_path / DIGEST).write_bytes(CONTENT)
    assert fetch(http, wanted, tmp_path, Count()).read_bytes() == CONTENT
    assert not script.asked


@pytest.mark.parametrize("part", [b"\xff" * 5000, b"\xff" * len(CONTENT), b"\xff" * (len(CONTENT) + 1)])
def test_a_wrong_part_costs_time_and_nothing_else(
    script: Any, http: Http, wanted: Wanted, tmp_path: Path, part: bytes
) -> None:
    (tmp_path / DIGEST).write_bytes(part)
    count = Count()
    assert fetch(http, wanted, tmp_path, count).read_bytes() == CONTENT
    assert ranges(script)[-1] is None
    assert count.done == len(CONTENT)


def test_a_server_without_ranges_sends_it_all_again(script: Any, http: Http, wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / DIGEST).write_bytes(CONTENT[:5000])
    script.plain((200, CONTENT))
    count = Count()
    assert fetch(http, wanted, tmp_path, count).read_bytes() == CONTENT
    assert count.done == len(CONTENT)


def test_a_server_that_sends_another_stretch_is_asked_again(
    script: Any, http: Http, wanted: Wanted, tmp_path: Path
) -> None:
    (tmp_path / DIGEST).write_bytes(CONTENT[:5000])
    said = {"Content-Range": f"bytes 4000-{len(CONTENT) - 1}/{len(CONTENT)}"}
    answers = [script.answer(206, CONTENT[4000:], said)]
    script.respond = lambda asked: answers.pop() if answers else script.ranged(asked, CONTENT)
    assert fetch(http, wanted, tmp_path, Count()).read_bytes() == CONTENT
    assert ranges(script) == ["bytes=5000-", "bytes=5000-"]


def test_a_part_that_the_server_does_not_know_is_dropped(
    script: Any, http: Http, wanted: Wanted, tmp_path: Path
) -> None:
    (tmp_path / DIGEST).write_bytes(CONTENT[:5000])
    script.plain((416,), (200, CONTENT))
    assert fetch(http, wanted, tmp_path, Count()).read_bytes() == CONTENT


def test_every_cut_is_gone_on_from_as_long_as_something_comes(
    script: Any, http: Http, wanted: Wanted, tmp_path: Path
) -> None:
    cuts = [10_000] * 9
    script.respond = lambda asked: script.ranged(asked, CONTENT, cuts.pop() if cuts else None)
    assert fetch(http, wanted, tmp_path, Count()).read_bytes() == CONTENT
    assert len(script.asked) == 10


def test_what_has_come_is_kept_when_it_is_given_up(script: Any, http: Http, wanted: Wanted, tmp_path: Path) -> None:
    answers = [script.answer(200, CONTENT, {}, 7000)]
    script.respond = lambda asked: answers.pop() if answers else script.answer(206, b"", {"Content-Length": "9"}, 0)
    with pytest.raises(MwactlError, match="given up"):
        fetch(http, wanted, tmp_path, Count())
    assert (tmp_path / DIGEST).read_bytes() == CONTENT[:7000]


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"?", CONTENT[:-1], CONTENT + b"?"])
def test_wrong_bytes_are_thrown_away(script: Any, http: Http, wanted: Wanted, tmp_path: Path, content: bytes) -> None:
    script.respond = lambda asked: script.ranged(asked, content)
    with pytest.raises(VerificationError, match=r"adapter.safetensors is not what its manifest says"):
        fetch(http, wanted, tmp_path, Count())
    assert not (tmp_path / DIGEST).exists()


def test_more_than_was_promised_is_not_read_even_if_its_length_is_not_said(
    script: Any, http: Http, wanted: Wanted, tmp_path: Path
) -> None:
    script.plain((200, CONTENT * 20, {"Content-Length": "unknown"}))
    with pytest.raises(VerificationError, match=r"more than 102,400 bytes came"):
        fetch(http, wanted, tmp_path, Count())
    assert not (tmp_path / DIGEST).exists()


def test_headers_with_numbers_of_five_thousand_digits_do_no_harm(
    script: Any, http: Http, wanted: Wanted, tmp_path: Path
) -> None:
    digits = "9" * 5000
    (tmp_path / DIGEST).write_bytes(CONTENT[:5000])
    said = {"Content-Range": f"bytes {digits}-{digits}/{digits}", "Content-Length": digits}
    answers = [script.answer(206, CONTENT[5000:], said)]
    script.respond = lambda asked: answers.pop() if answers else script.answer(200, CONTENT, {"Content-Length": digits})
    assert fetch(http, wanted, tmp_path, Count()).read_bytes() == CONTENT


def test_an_empty_file_needs_no_request(script: Any, http: Http, wanted: Wanted, tmp_path: Path) -> None:
    empty = replace(wanted, digest=sha256_bytes(b""), size=0)
    assert fetch(http, empty, tmp_path, Count()).read_bytes() == b""
    assert not script.asked


def test_a_refusal_is_passed_on(script: Any, http: Http, wanted: Wanted, tmp_path: Path) -> None:
    script.plain((403,))
    with pytest.raises(RefusedError):
        fetch(http, wanted, tmp_path, Count())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_said_so(http: Http, wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / DIGEST).symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="the disk is full"):
        fetch(http, wanted, tmp_path, Count())
