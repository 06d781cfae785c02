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
