"""What holds for aliases, tags and removal whatever happens: kills, several writers, rot, a full disk, other users."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mwactl.errors import MwactlError, ResourceError
from mwactl.registry import Entry, Registry

Publish = Callable[..., Entry]
Drive = Callable[..., str]


@pytest.mark.parametrize(
    ("scenario", "fewest_calls"),
    [("new alias", 20), ("moved alias", 20), ("deleted alias", 10), ("tag", 20), ("rm", 15), ("rm with alias", 20),
     ("undo", 14)],
)  # fmt: skip
def test_a_kill_at_any_system_call_leaves_the_old_state_or_the_new_one(
    memory_disk: Path, drive: Drive, scenario: str, fewest_calls: int
) -> None:
    report = json.loads(drive("names_crash_driver.py", memory_disk, scenario))
    assert report["failures"] == []
    assert report["calls"] >= fewest_calls
    assert report["kills"] > 2 * report["calls"], "before and after every call, and within every write"


@pytest.mark.parametrize("scenario", ["moved alias", "tag"])
def test_the_kill_test_finds_a_file_written_in_place(memory_disk: Path, drive: Drive, scenario: str) -> None:
    report = json.loads(drive("names_crash_driver.py", memory_disk, scenario, "sabotage"))
    assert report["failures"]


@pytest.mark.parametrize("lock", ["locked", "unlocked"])
def test_eight_writers_that_publish_alias_remove_and_restore_lose_nothing(
    memory_disk: Path, drive: Drive, lock: str
) -> None:
    root = memory_disk / "registry"
    known = json.loads(drive("mixed_writers_driver.py", root, "8", "12", lock))
    registry = Registry(root)
    kept = {int(number): content for writer in known for number, content in writer["versions"].items()}
    removed = sorted(number for writer in known for number in writer["removed"])
    entries = [entry for entry in registry.entries() if isinstance(entry, Entry)]
    assert {entry.version: registry.read(entry, "adapter.safetensors").decode() for entry in entries} == kept
    assert registry._folder("coco").versions.removed() == removed
    assert sorted([*kept, *removed]) == list(range(1, 8 * 12 + 1)), "a number was given twice, or none"
    expected = {alias: version for writer in known for alias, version in writer["aliases"].items()}
    assert {alias: version for alias, (version, _) in registry.aliases("coco").items()} == expected
    lines = registry.history("coco")
    assert not [line for line in lines if "problem" in line]
    assert sum(line["verb"] == "train" for line in lines) == 8 * 12


def test_no_flipped_bit_in_an_alias_or_a_version_leads_to_other_content(registry: Registry, publish: Publish) -> None:
    entries = {entry.version: entry for entry in (publish(data=bytes([number])) for number in range(1, 4))}
    registry.alias("coco", "prod", 2)
    flips = wrong = 0
    for path in (registry.root / "refs/coco/aliases/prod", registry.root / "refs/coco/versions/2"):
        good = path.read_bytes()
        path.chmod(0o644)
        for bit in range(8 * len(good)):
            rotten = bytearray(good)
            rotten[bit // 8] ^= 1 << bit % 8
            path.write_bytes(rotten)
            flips += 1
            try:
                wrong += registry.resolve("coco:prod") != entries[2]
            except MwactlError as error:
                assert error.exit_code == 5
            else:
                wrong += 1  # not even to the right one: the flip has to be noticed
            assert registry.labels("coco").problems
        path.write_bytes(good)
    assert (wrong, flips) == (0, 8 * (67 + 65))
    assert registry.resolve("coco:prod") == entries[2]


def test_every_flipped_bit_in_the_tags_is_found_and_hides_no_version(registry: Registry, publish: Publish) -> None:
    registry.tag(publish(), {"reviewed-by": "ann", "note": "é = 1"})
    path = registry.root / "refs/coco/tags.json"
    good = path.read_bytes()
    path.chmod(0o644)
    for bit in random.Random(0).sample(range(8 * len(good)), 200):
        rotten = bytearray(good)
        rotten[bit // 8] ^= 1 << bit % 8
        path.write_bytes(rotten)
        (problem,) = registry.labels("coco").problems
        assert "tags.json" in problem
        assert registry.resolve("coco").version == 1


CHANGES: dict[str, Callable[[Registry], Any]] = {
    "alias": lambda registry: registry.alias("coco", "prod", 2),
    "tag": lambda registry: registry.tag(registry.resolve("coco@1"), {"split": "test"}),
    "remove": lambda registry: registry.remove(registry.resolve("coco@2")),
    "restore": lambda registry: registry.restore("coco", 3),
}


def named(registry: Registry) -> tuple[Any, ...]:
    """What all the names mean."""
    entries = registry.entries()
    assert all(isinstance(entry, Entry) for entry in entries)
    labels = registry.labels("coco")
    assert labels.problems == []
    return [entry.reference for entry in entries], labels.aliases, labels.tags


@pytest.mark.parametrize("call", ["open", "write", "fsync", "chmod", "replace", "unlink"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_that_fills_up_leaves_the_old_state_or_the_new_one(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch, change: str, call: str
) -> None:
    for number in range(3):
        publish(data=bytes([number]))
    registry.alias("coco", "prod", 1)
    registry.tag(registry.resolve("coco@1"), {"split": "val"})
    registry.remove(registry.resolve("coco@3"))
    before, real = named(registry), getattr(os, call)

    def full_from(first: int) -> Callable[..., Any]:
        calls = 0

        def failing(path: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            # Reading goes on when the disk is full, and so does locking a file that is there.
            if call == "open" and (not args or not args[0] & os.O_CREAT or str(path).endswith("lock")):
                return real(path, *args, **kwargs)
            calls += 1
            if calls >= first:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(path, *args, **kwargs)

        return failing

    states, first = [], 1
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full_from(first))
            try:
                CHANGES[change](registry)
            except ResourceError as error:
                assert error.exit_code == 6
                assert "history" in error.what or ("MB are free" in str(error.why) and "needed" in str(error.why))
            else:
                break
        states.append(named(registry))
        if states[-1] != before:
            break
        first += 1
    if states and states[-1] != before:  # it was done, and the history could not be told: nothing to repeat
        return
    assert all(state == before for state in states)
    assert named(registry) != before


def test_a_nearly_full_disk_is_refused_with_both_numbers_and_removing_asks_for_little(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(), publish(data=b"more")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(ResourceError, match=r"67\.1 MB are needed"):
        publish(data=b"third")
    registry.remove(registry.resolve("coco@1"))  # who has to make room must be able to
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(ResourceError, match=r"0\.1 MB are needed, 0\.0 MB are free") as error:
        registry.remove(registry.resolve("coco@2"))
    assert error.value.exit_code == 6
    assert registry.resolve("coco").version == 2


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small file system")
def test_on_a_really_full_disk_names_stay_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
        registry = Registry(disk / "registry")
        for number in range(2):
            content = {"a.safetensors": bytes([number])}
            registry.publish("coco", kind="adapter", files=content, facts={}, verb="train")
        registry.alias("coco", "prod", 1)
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"\0" * 4096)
        with pytest.raises(ResourceError, match=r"MB are free there, 0\.1 MB are needed"):
            registry.alias("coco", "prod", 2)
        with pytest.raises(ResourceError, match="full"):
            registry.tag(registry.resolve("coco@1"), {"split": "val"})
        assert registry.resolve("coco:prod").version == 1
        assert registry.tags("coco") == {}
        assert list((registry.root / "tmp").iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def as_nobody(action: Callable[[], None]) -> None:
    """Run in a child process whose user is not root; root may write everywhere."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_registry_that_may_only_be_read_is_read_and_resolved_and_says_why_it_is_not_written(
    registry: Registry, publish: Publish, mwactl_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(), publish(data=b"more")
    registry.alias("coco", "prod", 1)
    registry.tag(registry.resolve("coco@1"), {"split": "val"})
    registry.remove(registry.resolve("coco@2"))
    registry.root.parent.chmod(0o755)
    monkeypatch.setenv("MWACTL_REGISTRY", str(registry.root))
    for command in (["list"], ["show", "coco:prod"], ["log"]):  # imports everything as root, once
        assert mwactl_cli("registry", *command).code == 0

    def read_and_try_to_write() -> None:
        reader = Registry.default()
        entry = reader.resolve("coco:prod")
        assert reader.read(entry, "adapter.safetensors") == b"tensors"
        assert reader.tags("coco") == {1: {"split": "val"}}
        for command in (["list"], ["show", "coco:prod"], ["log"]):
            assert mwactl_cli("registry", *command).code == 0
        refused = mwactl_cli("registry", "alias", "coco@1", "best")
        assert refused.code == 1
        assert "MWACTL_REGISTRY" in refused.stderr
        assert mwactl_cli("registry", "rm", "coco@1", "--yes", "--force").code == 1

    as_nobody(read_and_try_to_write)
    assert named(registry) == (["coco@1"], {1: ["prod"]}, {1: {"split": "val"}})


@pytest.mark.parametrize(
    ("umask", "directory", "log"), [(0o002, 0o775, 0o664), (0o022, 0o755, 0o644), (0o077, 0o700, 0o600)]
)
def test_the_umask_decides_who_shares_a_registry(memory_disk: Path, umask: int, directory: int, log: int) -> None:
    registry = Registry(memory_disk / "shared")
    earlier = os.umask(umask)
    try:
        entry = registry.publish("coco", kind="adapter", files={"a": b"x"}, facts={}, verb="train")
        registry.alias("coco", "prod", 1)
        registry.tag(entry, {"split": "val"})
        registry.attach(entry, "evaluation", {})
    finally:
        os.umask(earlier)
    for path in registry.root.rglob("*"):
        mode = path.stat().st_mode & 0o777
        if path.is_dir():
            assert mode == directory, path
        elif path.name in ("log.jsonl", "lock"):  # what more than one user writes to
            assert mode == log, path
        else:
            assert mode == 0o444, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_two_users_of_one_group_share_a_registry(memory_disk: Path) -> None:
    root = memory_disk / "shared"
    root.mkdir()
    os.chown(root, 0, 65534)
    root.chmod(0o2775)  # what is made in it belongs to the group
    memory_disk.chmod(0o755)
    registry, earlier = Registry(root), os.umask(0o002)
    try:
        registry.publish("coco", kind="adapter", files={"a": b"x"}, facts={}, verb="train")
        registry.alias("coco", "prod", 1)

        def write() -> None:
            mine = Registry(root)
            mine.publish("coco", kind="adapter", files={"a": b"y"}, facts={}, verb="train")
            mine.alias("coco", "prod", 2)
            mine.remove(mine.resolve("coco@1"))

        as_nobody(write)
    finally:
        os.umask(earlier)
    assert registry.resolve("coco:prod").version == 2
    assert [line["verb"] for line in registry.history("coco")] == ["train", "alias", "train", "alias", "remove"]
