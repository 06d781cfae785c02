from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mwactl.data.index_cache import remembered
from mwactl.home import cache_path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The index of a file whose only entry is 1."""
    (tmp_path / "file").write_bytes(b"x")
    assert remembered(tmp_path / "file", "test 1", lambda: [1]) == [1]
    [index] = (cache_path() / "indices").iterdir()
    return index


def never() -> list[Any]:
    pytest.fail("the file was read again")


def test_a_file_is_read_once_by_each_reader(index: Path, tmp_path: Path) -> None:
    assert remembered(tmp_path / "file", "test 1", never) == [1]
    assert remembered(tmp_path / "file", "test 2", lambda: [2]) == [2]


def test_an_index_that_its_checksum_does_not_fit_is_not_believed(index: Path, tmp_path: Path) -> None:
    checksum, _, body = index.read_bytes().partition(b"\n")
    index.write_bytes(checksum + b"\n" + json.dumps(json.loads(body) | {"entries": [7]}).encode())
    assert remembered(tmp_path / "file", "test 1", lambda: [1]) == [1]
    assert remembered(tmp_path / "file", "test 1", never) == [1]


def test_an_index_that_cannot_be_opened_is_none(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert remembered(tmp_path / "file", "test 1", lambda: [3]) == [3]
