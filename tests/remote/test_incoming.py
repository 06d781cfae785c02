from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from mwactl.errors import ResourceError
from mwactl.progress import Silent
from mwactl.remote import incoming as module
from mwactl.remote.incoming import clear, incoming


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)


def test_downloads_wait_in_the_cache(empty_home: Path) -> None:
    with incoming(Silent()) as folder:
        assert folder == empty_home / "cache" / "incoming"
        (folder / "part").write_bytes(b"half")
    with incoming(Silent()) as folder:
        assert (folder / "part").read_bytes() == b"half"
        clear(folder, ["part", "never there"])
        assert not (folder / "part").exists()


def test_there_is_one_pull_at_a_time(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENT_WAIT_S", 0.05)
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.1)
    heard = Heard()
    (empty_home / "cache/incoming").mkdir(parents=True)
    lock = FileLock(empty_home / "cache/incoming/lock")
    with lock, pytest.raises(ResourceError, match="another pull is going on"), incoming(heard):
        pass
    assert heard.lines == ["waiting for another pull (up to 0 s)"]
    with incoming(heard), pytest.raises(ResourceError), incoming(Silent()):
        pass


def test_what_nobody_came_back_for_in_a_week_goes(empty_home: Path) -> None:
    with incoming(Silent()) as folder:
        for name, days in (("old", 8), ("young", 6)):
            (folder / name).write_bytes(b"x")
            os.utime(folder / name, (time.time() - days * 86_400,) * 2)
    with incoming(Silent()) as folder:
        assert not (folder / "old").exists() and (folder / "young").exists()
        assert (folder / "lock").exists()
