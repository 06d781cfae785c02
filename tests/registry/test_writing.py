from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest

from mwactl.errors import IncompatibleError, MwactlError, ResourceError, VerificationError
from mwactl.registry import Entry, Registry

Publish = Callable[..., Entry]


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@contextmanager
def another_writer(registry: Registry) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the registry's lock until the block ends."""
    program = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True);"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(registry.root / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_the_first_write_makes_the_layout(registry: Registry, publish: Publish) -> None:
    assert not registry.root.exists()
    publish()
    assert (registry.root / "layout.json").read_text() == '{"layout": 1}\n'
    assert sorted(path.name for path in registry.root.iterdir()) == ["blobs", "layout.json", "lock", "refs", "tmp"]


def test_a_newer_layout_is_read_but_not_written(registry: Registry, publish: Publish) -> None:
    publish()
    (registry.root / "layout.json").chmod(0o644)
    (registry.root / "layout.json").write_text('{"layout": 2}')
    with pytest.raises(IncompatibleError, match="newer"):
        publish(data=b"more")
    assert registry.read(registry.resolve("coco"), "adapter.safetensors") == b"tensors"


@pytest.mark.parametrize("content", ["", "{}", "[1]", "{"])
def test_a_damaged_layout_is_not_written_over(registry: Registry, publish: Publish, content: str) -> None:
    publish()
    (registry.root / "layout.json").chmod(0o644)
    (registry.root / "layout.json").write_text(content)
    with pytest.raises(VerificationError, match="layout"):
        publish(data=b"more")
    assert (registry.root / "layout.json").read_text() == content


def test_too_little_space_is_said_with_both_numbers_before_anything_is_written(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    with pytest.raises(ResourceError, match=r"67\.1 MB are needed.*3\.0 MB are free") as error:
        publish()
    assert error.value.exit_code == 6
    assert not registry.root.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "chmod", "replace", "utime", "link", "mkdir"])
def test_a_disk_that_fills_up_leaves_the_old_versions_and_no_temporary_file(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    publish()
    real, calls = getattr(os, call), 0

    def full_from(first: int) -> Callable[..., Any]:
        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= first:
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        return failing

    for first in range(1, 40):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full_from(first))
            try:
                publish(data=b"new tensors")
            except ResourceError as error:
                assert error.exit_code == 6
            else:
                break
        assert list((registry.root / "tmp").iterdir()) == []
        old = registry.resolve("coco@1")
        assert registry.read(old, "adapter.safetensors") == b"tensors"
        assert [entry.reference for entry in registry.entries()] in (["coco@1"], ["coco@2", "coco@1"])
    assert first > 1, "the call was never made"
    assert publish(data=b"new tensors").version == 2


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_really_full_disk_leaves_every_version_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
        registry = Registry(disk / "registry")
        contents = [bytes([number]) * 100_000 for number in range(8)]
        published = 0
        with pytest.raises(ResourceError, match="disk is full"):
            for content in contents:
                registry.publish("coco", kind="adapter", files={"a.safetensors": content}, facts={}, verb="train")
                published += 1
        assert published >= 3
        entries = registry.entries()
        assert [registry.read(entry, "a.safetensors") for entry in entries] == contents[:published][::-1]
        assert list((registry.root / "tmp").iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_history_that_cannot_be_written_says_that_the_version_is_there(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("mwactl.registry.history.History.append", full)
    with pytest.raises(ResourceError, match="`train` of coco@2 is done, but the history has no line"):
        publish(data=b"more")
    assert registry.resolve("coco").version == 2


def test_a_registry_that_may_not_be_written_is_no_bug(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()

    def read_only(*_: Any) -> None:
        raise OSError(errno.EROFS, "read-only file system", "refs")

    monkeypatch.setattr(os, "link", read_only)
    with pytest.raises(MwactlError, match="MWACTL_REGISTRY") as error:
        publish(data=b"more")
    assert error.value.exit_code == 1


def test_the_lock_of_a_busy_writer_is_waited_for_and_then_given_up(registry: Registry, publish: Publish) -> None:
    publish()
    registry.lock_timeout_s = 0.1
    with another_writer(registry):
        assert registry.resolve("coco").version == 1, "readers take no lock"
        with pytest.raises(ResourceError, match="another process") as error:
            publish(data=b"more")
    assert error.value.exit_code == 6
    assert [entry.version for entry in registry.entries()] == [1]


def test_a_long_wait_is_announced(registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    listener = Listener()
    waiting = Registry(registry.root, reporter=listener)  # type: ignore[arg-type]
    waiting.lock_timeout_s = 0.2
    monkeypatch.setattr("mwactl.registry.writing._SILENT_WAIT_S", 0.05)
    with another_writer(registry), pytest.raises(ResourceError):
        waiting.attach(registry.resolve("coco"), "note", {})
    assert len(listener.infos) == 1
    assert "waiting" in listener.infos[0]


def test_the_lock_dies_with_its_holder(registry: Registry, publish: Publish) -> None:
    publish()
    with another_writer(registry) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        start = time.monotonic()
        assert publish(data=b"more").version == 2
    assert time.monotonic() - start < 2


def test_without_locks_in_the_file_system_publishing_goes_on_with_a_warning(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    listener = Listener()
    writer = Registry(registry.root, reporter=listener)  # type: ignore[arg-type]
    assert writer.publish("coco", kind="adapter", files={"a": b"x"}, facts={}, verb="train").version == 1
    assert len(listener.warnings) == 1
    assert "no locks" in listener.warnings[0]
