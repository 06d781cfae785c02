from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mwactl.errors import VerificationError
from mwactl.registry.numbered import NumberedPointers

FIRST, SECOND = "a1" * 32, "b2" * 32


@pytest.fixture
def pointers(tmp_path: Path) -> NumberedPointers:
    return NumberedPointers(tmp_path, tmp_path / "versions")


def test_numbers_count_from_one_and_hold_their_digest(pointers: NumberedPointers, tmp_path: Path) -> None:
    assert pointers.numbers() == []
    assert [pointers.add(FIRST), pointers.add(SECOND)] == [1, 2]
    assert pointers.numbers() == [1, 2]
    assert [pointers.digest(1), pointers.digest(2)] == [FIRST, SECOND]
    assert (tmp_path / "versions" / "1").read_text() == f"{FIRST}\n"
    assert pointers.time_ns(1) < pointers.time_ns(2)


def test_ten_comes_after_nine(pointers: NumberedPointers) -> None:
    assert [pointers.add(FIRST) for _ in range(11)] == list(range(1, 12))


def test_a_number_taken_meanwhile_is_never_overwritten(
    pointers: NumberedPointers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        if not target.exists() and target.name == "1":
            target.write_text("another process\n")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    assert pointers.add(FIRST) == 2
    assert (tmp_path / "versions" / "1").read_text() == "another process\n"


def test_a_removed_number_is_never_given_again(pointers: NumberedPointers, tmp_path: Path) -> None:
    pointers.add(FIRST)
    (tmp_path / "versions" / "1").rename(tmp_path / "versions" / "1.removed")
    assert pointers.numbers() == []
    assert pointers.add(SECOND) == 2


def test_strange_files_among_the_versions_are_ignored(pointers: NumberedPointers, tmp_path: Path) -> None:
    pointers.add(FIRST)
    for name in ("2~", "03", "x", ".DS_Store", "-4"):
        (tmp_path / "versions" / name).write_text("?")
    assert pointers.numbers() == [1]
    assert pointers.add(SECOND) == 2


def test_without_hard_links_a_number_still_has_one_winner(
    pointers: NumberedPointers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source))

    monkeypatch.setattr(os, "link", no_links)
    assert [pointers.add(FIRST), pointers.add(SECOND)] == [1, 2]
    assert [pointers.digest(1), pointers.digest(2)] == [FIRST, SECOND]
    assert pointers.time_ns(1) < pointers.time_ns(2)


@pytest.mark.parametrize(
    "content", [b"", b"\n", FIRST.encode(), FIRST.upper().encode() + b"\n", FIRST.encode() + b"\n\n", b"\xff" * 65]
)
def test_a_pointer_that_is_not_exactly_a_digest_is_corrupt(
    pointers: NumberedPointers, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "1").write_bytes(content)
    with pytest.raises(VerificationError, match="corrupt"):
        pointers.digest(1)
    assert pointers.intact_digest(1, "none") == "none"
