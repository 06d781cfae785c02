from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from mwactl.errors import ResourceError, UsageError
from mwactl.files import (
    atomic_file,
    atomic_write,
    canonical_json,
    naming_write_errors,
    sha256_bytes,
    sha256_file,
    sync_directory,
)


def raising(number: int):
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_file_is_written_with_its_folders(tmp_path: Path):
    atomic_write(tmp_path / "a" / "b" / "file", b"new")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_until_the_block_ends_the_old_content_is_there(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_an_exception_leaves_the_old_content_and_nothing_else(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_file(path) as file:
        file.write(b"half of the n")
        raise KeyError("something else went wrong")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_kill_leaves_the_old_content(tmp_path: Path, call: str):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        setattr(os, call, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        atomic_write(path, b"new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was not killed where it should have been"
    assert path.read_bytes() == b"old"
    atomic_write(path, b"next")  # what the kill left behind is in nobody's way
    assert path.read_bytes() == b"next"


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        happened.append("sync " + ("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"))
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        happened.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    atomic_write(tmp_path / "file", b"new")
    assert happened == ["sync file", "rename", "sync folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    "where", [(os, "fsync"), (tempfile, "mkstemp"), (os, "mkdir")], ids=["bytes", "inode", "folder"]
)
def test_a_full_disk_says_how_much_is_free_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], number: int
):
    path = tmp_path / ("new" if where[1] == "mkdir" else "") / "file"
    if path.parent.is_dir():
        path.write_bytes(b"old")
    monkeypatch.setattr(*where, raising(number))
    with pytest.raises(ResourceError) as caught:
        atomic_write(path, b"new")
    monkeypatch.undo()
    disk = os.statvfs(tmp_path)
    free_mb = float(str(caught.value.why).split()[0].replace(",", ""))
    assert free_mb == pytest.approx(disk.f_bavail * disk.f_frsize / 1e6, rel=0.2, abs=500)
    assert caught.value.where == str(path)
    assert "MWACTL_HOME" in str(caught.value.fix)
    assert [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()] == [b"old"] * (where[1] != "mkdir")


@pytest.mark.parametrize("name", ["file/new", "file/below/new", "folder", "n" * 300])
def test_a_place_that_is_none_is_a_mistake_and_is_named(tmp_path: Path, name: str):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(UsageError, match="this place cannot be written to") as caught:
        atomic_write(tmp_path / name, b"new")
    named = Path(str(caught.value.where))
    assert named == tmp_path / name or named in (tmp_path / name).parents
    assert caught.value.fix == "choose another place"
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_relative_place_that_is_a_folder_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("sheets").mkdir()
    with pytest.raises(UsageError, match="this place cannot be written to"):
        atomic_write(Path("sheets"), b"new")


def test_where_nothing_can_be_made_is_a_mistake():
    with pytest.raises(UsageError, match="this place cannot be written to"):
        atomic_write(Path("/proc/file"), b"new")


@pytest.mark.parametrize(("number", "error"), [(errno.EACCES, ResourceError), (errno.ENOTDIR, UsageError)])
def test_only_within_the_home_another_home_is_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
):
    monkeypatch.setenv("MWACTL_HOME", str(tmp_path / "home"))
    for path, fix in ((tmp_path / "home" / "cache", "MWACTL_HOME="), (tmp_path / "home-page.html", "another place")):
        with pytest.raises(error) as caught, naming_write_errors(path):
            raise OSError(number, os.strerror(number), str(path))
        assert fix in str(caught.value)
        assert ("MWACTL_HOME" in str(caught.value)) is ("MWACTL_HOME" in fix)


def test_what_cannot_be_read_meanwhile_is_no_place_that_cannot_be_written_to(tmp_path: Path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "new"):
        (tmp_path / "elsewhere" / "absent").read_bytes()


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", raising(errno.EIO))
    with pytest.raises(OSError, match="Input/output error") as caught:
        atomic_write(tmp_path / "file", b"new")
    assert not isinstance(caught.value, ResourceError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_rights_that_the_umask_allows(tmp_path: Path, umask: int, mode: int):
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "file", b"new")
        assert os.umask(umask) == umask, "the process's umask was changed"
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    monkeypatch.setattr(os, "fsync", raising(number))
    sync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", raising(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_directory(tmp_path)


def test_digests_of_files_and_bytes_are_sha256(tmp_path: Path):
    data = bytes(range(256)) * 10_000  # more than one chunk
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_a_json_value_has_one_spelling():
    assert canonical_json({"b": [1, None], "a": "é"}) == '{"a":"é","b":[1,null]}'.encode()
    for not_a_number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json({"a": not_a_number})
