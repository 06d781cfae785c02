from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from mwactl.registry.history import History, iso_time

TIME = iso_time(1_700_000_000_123_456_789)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "log.jsonl")


def test_a_line_says_who_did_what_when(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    monkeypatch.setattr("platform.node", lambda: "engine")
    history.append("train", time=TIME, old={"version": 1}, new={"version": 2})
    assert history.records() == [
        {
            "time": "2023-11-14T22:13:20.123456+00:00",
            "user": "ada",
            "host": "engine",
            "verb": "train",
            "old": {"version": 1},
            "new": {"version": 2},
        }
    ]


def test_a_user_without_a_name_can_publish_too(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", no_name)
    history.append("train", time=TIME, old=None, new={})
    assert history.records()[0]["user"].startswith("uid ")


def test_a_torn_last_line_swallows_no_later_one(history: History) -> None:
    history.append("first", time=TIME, old=None, new={})
    whole = history.path.read_bytes()
    history.append("torn", time=TIME, old=None, new={})
    history.path.write_bytes(history.path.read_bytes()[: len(whole) + 40])
    history.append("third", time=TIME, old=None, new={})
    records = history.records()
    assert [record.get("verb") for record in records] == ["first", None, "third"]
    assert "line 2" in records[1]["problem"]


def test_a_changed_word_is_noticed(history: History) -> None:
    history.append("train", time=TIME, old=None, new={})
    history.path.write_bytes(history.path.read_bytes().replace(b"train", b"trick"))
    assert list(history.records()[0]) == ["problem"]


def test_without_a_log_there_are_no_records(history: History) -> None:
    assert history.records() == []
    assert not history.path.exists()


def test_times_sort_as_text() -> None:
    times = [iso_time(nanoseconds) for nanoseconds in (0, 999, 1000, 10**9, 17 * 10**17, 17 * 10**17 + 1000)]
    assert times == sorted(times)
    assert times[1] == times[0] < times[2]


def test_a_line_is_found_by_what_it_made_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for number in range(5):
        History(path).append("train", time=iso_time(number), old=None, new={"version": number, "digest": "d"})
    history = History(path)
    for number in (3, 1, 4, 0, 0):
        found = history.find({"digest": "d", "version": number})
        assert found is not None
        assert (found["new"]["version"], found["time"]) == (number, iso_time(number))
    assert history.find({"version": 5, "digest": "d"}) is None
    assert history.find({"version": 1}) is None
    assert History(tmp_path / "absent").find({"version": 1, "digest": "d"}) is None


def test_a_damaged_line_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    History(path).append("train", time=iso_time(0), old=None, new={"version": 1})
    path.write_bytes(path.read_bytes().replace(b"train", b"trail"))
    assert History(path).find({"version": 1}) is None


def test_a_line_with_the_checksum_of_something_that_is_no_json_is_damaged(tmp_path: Path) -> None:
    from mwactl.files import sha256_bytes

    path = tmp_path / "log.jsonl"
    rest = b'"verb":'
    path.write_bytes(b'{"check":"' + sha256_bytes(b"{" + rest)[:16].encode() + b'",' + rest + b"\n")
    assert [set(record) for record in History(path).records()] == [{"problem"}]
