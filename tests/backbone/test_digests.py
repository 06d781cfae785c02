"""Large files are hashed once for as long as they do not change."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from mwactl.backbone import digests
from mwactl.backbone.digests import known_sha256, record_path, record_sha256, recorded_sha256
from mwactl.errors import ExitCode, ResourceError, VerificationError
from mwactl.home import cache_path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read, in order."""
    files: list[Path] = []
    original = digests.sha256_file

    def note(path: Path) -> str:
        files.append(path)
        return original(path)

    monkeypatch.setattr(digests, "sha256_file", note)
    return files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"some weights")
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entries() -> list[Path]:
    return list((cache_path() / "digests").iterdir())


def test_a_file_that_stays_as_it_is_is_read_once(
    file: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert known_sha256(file) == sha256(b"some weights")
    monkeypatch.chdir(file.parent)
    link = file.with_name("link")
    link.symlink_to(file)
    for same in (file, Path(file.name), link):
        assert known_sha256(same) == sha256(b"some weights")
    assert len(hashed) == 1


def test_a_file_of_another_size_time_or_inode_is_read_again(file: Path, hashed: list[Path]) -> None:
    known_sha256(file)
    stat = file.stat()
    kept = (stat.st_atime_ns, stat.st_mtime_ns)

    file.write_bytes(b"longer than that")
    os.utime(file, ns=kept)
    assert known_sha256(file) == sha256(b"longer than that")

    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert known_sha256(file) == sha256(b"longer than that")

    other = file.with_name("other")
    other.write_bytes(b"replaced, it is!")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    other.replace(file)
    assert known_sha256(file) == sha256(b"replaced, it is!")
    assert len(hashed) == 4


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"sha256": 3}', b'{"sha256": "abc"}'])
def test_a_damaged_cache_entry_is_made_again(file: Path, hashed: list[Path], damage: bytes) -> None:
    known_sha256(file)
    (entry,) = entries()
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    assert known_sha256(file) == sha256(b"some weights")
    assert entry.read_bytes() == whole
    assert len(hashed) == 2


def test_a_cache_entry_with_half_a_digest_is_made_again(file: Path) -> None:
    digest = known_sha256(file)
    (entry,) = entries()
    entry.write_bytes(entry.read_bytes().replace(digest.encode(), digest[:32].encode()))
    assert known_sha256(file) == digest


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def growing(path: Path) -> str:
        digest = sha256(path.read_bytes())
        path.write_bytes(path.read_bytes() + b"+")
        return digest

    monkeypatch.setattr(digests, "sha256_file", growing)
    known_sha256(file)
    assert not (cache_path() / "digests").exists()


def test_a_file_that_cannot_be_read_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(digests, "sha256_file", refused)
    with pytest.raises(ResourceError, match="cannot be read") as raised:
        known_sha256(file)
    assert (raised.value.where, raised.value.why) == (str(file), "Permission denied")


def test_a_record_is_what_sha256sum_writes_and_checks(file: Path) -> None:
    assert recorded_sha256(file) is None
    record_sha256(file, known_sha256(file))
    assert recorded_sha256(file) == sha256(b"some weights")
    command = ["sha256sum", "-c", record_path(file).name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "weights.pth: OK\n"), done.stderr
    written = subprocess.run(["sha256sum", file.name], cwd=file.parent, capture_output=True, check=True).stdout
    assert record_path(file).read_bytes() == written


@pytest.mark.parametrize("content", [b"", b"no digest", b"abc  weights.pth", b"\xff\xfe" + b"0" * 64])
def test_a_damaged_record_is_an_error_and_not_taken_for_none(file: Path, content: bytes) -> None:
    record_path(file).write_bytes(content)
    with pytest.raises(VerificationError, match="damaged") as raised:
        recorded_sha256(file)
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert raised.value.where == str(record_path(file))
    assert f"rm {record_path(file)}" in (raised.value.fix or "")
