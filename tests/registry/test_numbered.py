from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mwactl.errors import VerificationError
from mwactl.registry.folder import NameFolder
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


def test_a_pointer_that_cannot_be_read_says_what_to_do(pointers: NumberedPointers, tmp_path: Path) -> None:
    (tmp_path / "versions/1").mkdir(parents=True)
    with pytest.raises(VerificationError, match="cannot be read") as error:
        pointers.digest(1)
    assert "mwactl registry verify --repair" in str(error.value.fix)


def test_a_removed_number_keeps_its_digest_and_is_never_given_again(pointers: NumberedPointers) -> None:
    assert [pointers.add(FIRST), pointers.add(SECOND)] == [1, 2]
    made = pointers.time_ns(2)
    pointers.remove(2)
    assert (pointers.numbers(), pointers.removed()) == ([1], [2])
    assert (pointers.exists(2), pointers.is_removed(2)) == (False, True)
    assert (pointers.removed_digest(2), pointers.time_ns(2)) == (SECOND, made)
    assert pointers.add(SECOND) == 3
    pointers.restore(2)
    assert (pointers.numbers(), pointers.removed()) == ([1, 2, 3], [])
    assert (pointers.exists(2), pointers.digest(2), pointers.time_ns(2)) == (True, SECOND, made)


def test_a_number_with_a_tombstone_is_removed_whatever_lies_beside_it(
    pointers: NumberedPointers, tmp_path: Path
) -> None:
    pointers.add(FIRST)
    (tmp_path / "versions/1.removed").write_text(f"{FIRST}\n")
    assert (pointers.numbers(), pointers.exists(1)) == ([], False)


def test_a_number_that_looked_free_during_a_removal_is_not_taken(
    pointers: NumberedPointers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock, listing a directory in which 1 becomes 1.removed may show neither."""
    pointers.add(FIRST)
    pointers.remove(1)
    monkeypatch.setattr(NumberedPointers, "_taken", lambda _: (set(), set()))
    assert pointers.add(SECOND) == 2
    monkeypatch.undo()
    assert (pointers.numbers(), pointers.removed_digest(1)) == ([2], FIRST)


def test_other_files_are_no_pointers(pointers: NumberedPointers, tmp_path: Path) -> None:
    pointers.add(FIRST)
    for name in ("01", "0", "x", "2.tmp", "removed", ".removed", "02.removed", "1234567890"):
        (tmp_path / "versions" / name).write_text(f"{FIRST}\n")
    assert (pointers.numbers(), pointers.removed()) == ([1], [])


def test_the_ends_are_the_newest_number_and_the_highest_ever_taken(pointers: NumberedPointers) -> None:
    assert pointers.ends() == (0, 0)
    for _ in range(3):
        pointers.add(FIRST)
    pointers.remove(3)
    assert pointers.ends() == (2, 3)
    assert pointers.add(SECOND, taken=3) == 4


def test_a_publication_lists_its_directory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = NameFolder(tmp_path, "coco")
    folder.add(FIRST, "train")
    listed, real = [], NumberedPointers._taken
    monkeypatch.setattr(NumberedPointers, "_taken", lambda self: listed.append(self) or real(self))
    assert folder.add(SECOND, "train") == 2
    assert len(listed) == 1
