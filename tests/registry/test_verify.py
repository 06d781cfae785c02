from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError, NotFoundError, ResourceError, UsageError, VerificationError
from mwactl.registry import BrokenEntry, Entry, Registry
from mwactl.registry.fault import REPAIR, Fault
from mwactl.registry.gc import apply_gc, plan_gc
from mwactl.registry.staging import chunks_of
from mwactl.registry.verify import Verification, repair, verify

Publish = Callable[..., Entry]
Drive = Callable[..., str]


def rot(path: Path, data: bytes = b"rot") -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def forget(registry: Registry) -> None:
    """Begin the history anew: nothing of before is in it."""
    history = registry._folder("coco").history
    history.path.unlink()
    history.append("tag", time="now", old=None, new=None)


def files(registry: Registry, faults: Iterable[Fault]) -> list[str]:
    return sorted(fault.file.relative_to(registry.root).as_posix() for fault in faults)


def only_fault(registry: Registry, references: tuple[str, ...] = ()) -> Fault:
    (fault,) = verify(registry, references).faults
    return fault


def heal(registry: Registry) -> Verification:
    before = verify(registry)
    assert before.faults
    return repair(registry, before)


def quarantined(registry: Registry) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (registry.root / "quarantine").glob("*")}


@pytest.fixture
def full(registry: Registry, publish: Publish) -> Registry:
    """coco@1 (prod, tagged, two results), coco@2 (a child of 1), coco@3 (removed), flickr@1."""
    first = publish()
    for rsum in (500.0, 510.0):
        registry.attach(first, "evaluation", {"rsum": rsum})
    publish(data=b"second", parents=(first.digest,))
    registry.remove(publish(data=b"third"))
    publish("flickr", data=b"flickr")
    registry.alias("coco", "prod", 1)
    registry.tag(first, {"split": "val"})
    return registry


def test_a_healthy_registry_has_no_faults_and_is_not_written_to(
    full: Registry, snapshot: Callable[[Path], Any]
) -> None:
    before = snapshot(full.root)
    result = verify(full)
    assert result.faults == []
    assert (result.versions, len(result.blobs)) == (3, 10)
    assert result.size_bytes == sum(path.stat().st_size for path in full.root.glob("blobs/sha256/*/*"))
    assert snapshot(full.root) == before


def test_an_absent_registry_has_no_faults_and_is_not_made(registry: Registry) -> None:
    result = verify(registry)
    assert (result.faults, result.versions, result.size_bytes) == ([], 0, 0)
    assert not registry.root.exists()


def test_a_registry_that_may_only_be_read_can_be_verified(full: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **_: Any) -> None:
        raise OSError(30, "Read-only file system", str(arguments[0]))

    rot(full.root / "refs/coco/tags.json")
    with monkeypatch.context() as patch:
        for call in ("mkdir", "replace", "rename", "link", "unlink", "chmod", "utime"):
            patch.setattr(os, call, refuse)
        assert len(verify(full).faults) == 1
        with pytest.raises(MwactlError, match="cannot be written"):
            heal(full)


def test_a_rotten_file_is_named_with_what_was_expected_and_found(full: Registry) -> None:
    entry = full.resolve("flickr")
    path = full._blobs.path(entry.manifest["files"][0]["sha256"])
    rot(path)
    fault = only_fault(full)
    assert (fault.what, fault.file) == ("flickr@1 adapter.safetensors", path)
    assert fault.expected == f"sha256:{path.name[:12]}…"
    assert fault.found.startswith("sha256:7ec879c8c860")
    assert fault.repair.endswith("mwactl registry rm flickr@1")
    path.unlink()
    assert only_fault(full).found == "no file"


def test_content_of_several_versions_is_one_fault_that_counts_them(full: Registry, publish: Publish) -> None:
    publish("zebra")
    digest = full.resolve("zebra").manifest["files"][0]["sha256"]
    rot(full._blobs.path(digest))
    assert only_fault(full).what == "coco@1 adapter.safetensors (and 1 more)"


def test_one_bad_entry_hides_no_other(full: Registry) -> None:
    manifest = full._blobs.path(full.resolve("coco@1").digest)
    adapter = full._blobs.path(full.resolve("flickr").manifest["files"][0]["sha256"])
    damaged = [manifest, adapter, *(full.root / "refs/coco" / each for each in ("versions/2", "tags.json"))]
    for path in damaged:
        rot(path)
    faults = verify(full).faults
    assert {*files(full, faults)} == {path.relative_to(full.root).as_posix() for path in damaged}
    assert len(faults) == 4


def test_a_size_that_the_manifest_has_wrong_is_a_fault(registry: Registry, publish: Publish) -> None:
    entry = publish()
    good = registry._blobs.path(entry.digest).read_bytes()
    digest, _ = registry._blobs.put(good.replace(b'"size":7', b'"size":8'))
    rot(registry.root / "refs/coco/versions/1", f"{digest}\n".encode())
    forget(registry)
    fault = only_fault(registry)
    assert (fault.expected, fault.found) == ("8 bytes (says the manifest)", "7 bytes")


def test_a_result_about_another_version_is_a_fault(full: Registry) -> None:
    digest = full.attach(full.resolve("flickr"), "evaluation", {"rsum": 1})
    pointer = full.root / "refs/coco/attached" / full.resolve("coco@1").digest[:16] / "evaluation/2"
    rot(pointer, f"{digest}\n".encode())
    assert "about something else" in only_fault(full).found


def test_a_damaged_layout_is_a_fault_that_is_not_guessed_at(full: Registry) -> None:
    rot(full.root / "layout.json", b"{")
    fault = only_fault(full)
    assert (fault.what, fault.file) == ("the layout", full.root / "layout.json")
    with pytest.raises(VerificationError, match="layout"):
        heal(full)


def test_a_missing_layout_is_made_again(full: Registry) -> None:
    (full.root / "layout.json").unlink()
    assert files(full, heal(full).healed) == ["layout.json"]
    assert verify(full).faults == []


def test_a_name_a_version_and_an_alias_limit_what_is_looked_at(full: Registry) -> None:
    rot(full._blobs.path(full.resolve("coco@2").manifest["files"][0]["sha256"]))
    rot(full.root / "refs/coco/tags.json")
    assert len(verify(full).faults) == len(verify(full, ["coco"]).faults) == 2
    assert files(full, verify(full, ["coco@2"]).faults)[0].startswith("blobs/")
    for healthy in ("coco@1", "coco:prod", "flickr", "flickr@1"):
        assert verify(full, [healthy]).faults == []
    assert len(verify(full, ["coco@1", "coco@2", "flickr"]).faults) == 1
    assert verify(full, ["flickr"]).versions == 1
    assert len(verify(full, ["coco@1"]).blobs) == 4


def test_a_damaged_alias_does_not_hide_what_it_led_to(full: Registry) -> None:
    rot(full.root / "refs/coco/aliases/prod")
    assert only_fault(full, ("coco:prod",)).what == "coco:prod"


@pytest.mark.parametrize(
    ("reference", "error"),
    [("absent", NotFoundError), ("coco@9", NotFoundError), ("coco:nope", NotFoundError), ("../x", UsageError),
     ("./folder", UsageError), ("coco@3", NotFoundError)],
)  # fmt: skip
def test_what_is_not_there_is_not_verified(full: Registry, reference: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(full, [reference])


def test_what_is_removed_while_it_is_looked_at_is_no_fault(full: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from mwactl.registry import gc
    from mwactl.registry import verify as module

    real = module._paths

    def paths(*arguments: Any) -> list[Path]:
        full.remove(full.resolve("flickr"))
        gc.apply_gc(full, gc.plan_gc(full, 0.0))
        return real(*arguments)

    monkeypatch.setattr(module, "_paths", paths)
    assert verify(full).faults == []


def test_what_is_published_while_it_is_looked_at_is_no_fault(
    full: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mwactl.registry import verify as module

    real = module._read
    rot(full.root / "refs/coco/tags.json")  # a fault, so that the references are followed twice

    def read(*arguments: Any) -> Any:
        found = list(real(*arguments))
        publish("new", data=b"published meanwhile")
        return iter(found)

    monkeypatch.setattr(module, "_read", read)
    assert only_fault(full).what == "coco tags"


@pytest.fixture
def attached_to_removed(full: Registry) -> Path:
    """Where the two results of coco@3, which is removed, are listed."""
    entry = full._load(full._folder("coco"), full.restore("coco", 3).new["version"])  # type: ignore[index]
    for rsum in (520.0, 530.0):
        full.attach(entry, "evaluation", {"rsum": rsum})
    full.remove(entry)
    assert verify(full).faults == []
    return full.root / "refs/coco/attached" / entry.digest[:16] / "evaluation"


@pytest.mark.parametrize("number", ["1", "2"])
@pytest.mark.parametrize("damage", ["emptied", "rotten", "another result", "lost"])
def test_a_pointer_to_a_result_of_a_removed_version_is_looked_at_and_healed(
    full: Registry, attached_to_removed: Path, damage: str, number: str
) -> None:
    path = attached_to_removed / number
    good, other = path.read_bytes(), full.root / "refs/coco/versions/1"
    path.unlink() if damage == "lost" else rot(
        path, {"emptied": b"", "rotten": b"rot", "another result": other.read_bytes()}[damage]
    )
    fault = only_fault(full)
    assert (fault.file.name, "coco@3, removed" in fault.what) in {
        (number, True), (other.read_text().strip(), True)
    }  # fmt: skip
    if damage != "another result":
        assert (heal(full).faults, path.read_bytes()) == ([], good)
        full.restore("coco", 3)
        documents = [item["document"] for item in full.attachments(full.resolve("coco@3"))]
        assert documents == [{"rsum": 520.0}, {"rsum": 530.0}]


@pytest.mark.parametrize("damage", ["emptied", "rotten", "lost"])
def test_a_result_of_a_removed_version_is_looked_at(full: Registry, attached_to_removed: Path, damage: str) -> None:
    path = full._blobs.path((attached_to_removed / "2").read_text().strip())
    path.unlink() if damage == "lost" else rot(path, b"" if damage == "emptied" else b"rot")
    fault = only_fault(full)
    assert (fault.what, fault.file) == ("coco@3, removed: evaluation 2", path)
    assert fault.repair.endswith("mwactl registry gc --grace 0 --apply")


def test_the_last_pointer_to_a_result_is_missed_and_comes_back(full: Registry) -> None:
    attached = full.root / "refs/coco/attached" / full.resolve("coco@1").digest[:16]
    good = (attached / "evaluation/2").read_bytes()
    (attached / "evaluation/2").unlink()
    assert only_fault(full).what == "coco@1 evaluation 2"
    assert heal(full).faults == []
    assert (attached / "evaluation/2").read_bytes() == good
    shutil.rmtree(attached.parent)
    assert [fault.what for fault in heal(full).healed] == ["coco@1 evaluation 1", "coco@1 evaluation 2"]
    assert verify(full).faults == []


def test_a_result_that_is_wholly_lost_hides_nothing_and_comes_back_when_it_is_attached_again(full: Registry) -> None:
    entry = full.resolve("coco@1")
    pointer = full.root / "refs/coco/attached" / entry.digest[:16] / "evaluation/2"
    full._blobs.path(pointer.read_text().strip()).unlink()
    pointer.unlink()
    fault = only_fault(full)
    assert (fault.found, fault.content, plan_gc(full).faults) == ("no file", None, ())
    full.attach(entry, "evaluation", {"rsum": 510.0})
    assert heal(full).faults == []


def test_results_that_clean_up_took_are_not_missed_when_the_content_is_published_again(
    full: Registry, publish: Publish
) -> None:
    def third() -> Entry:
        entry = publish(data=b"third")
        full.attach(entry, "evaluation", {"rsum": 1.0})
        return entry

    full.remove(third())
    assert plan_gc(full, 0.0).attachments
    apply_gc(full, plan_gc(full, 0.0))
    assert verify(full).faults == []
    again = publish(data=b"third")
    assert verify(full).faults == []
    assert third() == again
    assert verify(full).faults == []
    (full.root / "refs/coco/attached" / again.digest[:16] / "evaluation/1").unlink()
    assert only_fault(full).what == f"{again.reference} evaluation 1"


def test_results_from_before_a_removal_without_clean_up_are_still_missed(full: Registry, publish: Publish) -> None:
    entry = publish(data=b"fourth")
    full.attach(entry, "evaluation", {"rsum": 1.0})
    full.remove(entry)
    again = publish(data=b"fourth")
    full.attach(again, "evaluation", {"rsum": 2.0})
    assert verify(full).faults == []
    pointer = full.root / "refs/coco/attached" / again.digest[:16] / "evaluation/2"
    pointer.unlink()
    assert only_fault(full).file == pointer


def test_lost_tags_come_back_from_the_history(full: Registry) -> None:
    path = full.root / "refs/coco/tags.json"
    good = path.read_bytes()
    path.unlink()
    fault = only_fault(full)
    assert (fault.what, fault.found, fault.repair.startswith(REPAIR)) == ("coco tags", "no file", True)
    assert heal(full).faults == []
    assert path.read_bytes() == good


@pytest.mark.parametrize("damage", ["emptied", "lost"])
def test_a_lost_history_is_a_fault_that_stops_nothing(full: Registry, damage: str) -> None:
    path = full.root / "refs/coco/log.jsonl"
    path.unlink() if damage == "lost" else rot(path, b"")
    fault = only_fault(full)
    assert (fault.what, fault.content, plan_gc(full).faults) == ("coco history", None, ())
    assert fault.repair.endswith("mwactl registry tag coco history=lost")
    full.tag(full.locate("coco"), {"history": "lost"})
    assert verify(full).faults == []


def test_what_cannot_be_read_says_what_to_do(full: Registry, tmp_path: Path) -> None:
    for path in (full.root / "refs/coco/aliases/prod", full.root / "refs/coco/tags.json", tmp_path / "file"):
        path.unlink(missing_ok=True)
        path.mkdir()
    for read in (lambda: full.resolve("coco:prod"), lambda: full.tags("coco")):
        with pytest.raises(VerificationError, match="cannot be read") as error:
            read()
        assert REPAIR in str(error.value.fix)
    with pytest.raises(MwactlError, match="cannot be read") as unreadable:
        next(iter(chunks_of(tmp_path / "file")))
    assert str(unreadable.value.fix).startswith("make it readable: chmod")


# -- repair --------------------------------------------------------------------------------------------------------


def test_a_rotten_blob_that_nothing_needs_moves_to_quarantine(full: Registry) -> None:
    digest, _ = full._blobs.put(b"orphan")
    rot(full._blobs.path(digest))
    assert only_fault(full).repair == REPAIR
    result = heal(full)
    assert (result.faults, len(result.healed)) == ([], 1)
    assert [(name.partition(".")[0], data) for name, data in quarantined(full).items()] == [(digest, b"rot")]
    assert verify(full).faults == []


def test_a_rotten_blob_that_is_needed_moves_too_and_stays_a_fault_until_it_is_published_again(
    full: Registry, publish: Publish
) -> None:
    entry = full.resolve("flickr")
    rot(full._blobs.path(entry.manifest["files"][0]["sha256"]))
    (fault,) = heal(full).faults
    assert fault.found == "no file"
    assert "mwactl registry unpack" in fault.repair
    assert list(quarantined(full).values()) == [b"rot"]
    assert publish("flickr", data=b"flickr") == entry
    assert verify(full).faults == []


def test_a_blob_that_could_not_be_read_for_a_while_comes_back_from_quarantine(full: Registry) -> None:
    path = full._blobs.path(full.resolve("flickr").manifest["files"][0]["sha256"])
    full._blobs._quarantine(path)
    result = heal(full)
    assert (result.faults, len(result.healed)) == ([], 1)
    assert path.read_bytes() == b"flickr"
    assert len(quarantined(full)) == 1, "nothing leaves the quarantine"


@pytest.mark.parametrize(
    "file", ["versions/1", "versions/2", "versions/3.removed", "aliases/prod", "tags.json", "ATTACHED/evaluation/1"]
)
@pytest.mark.parametrize("content", [b"", b"rot\n", b"1 " + b"0" * 64 + b"\n", b"\xff" * 70])
def test_a_pointer_an_alias_and_tags_are_healed_from_the_history(full: Registry, file: str, content: bytes) -> None:
    attached = f"attached/{full.resolve('coco@1').digest[:16]}"
    path = full.root / "refs/coco" / file.replace("ATTACHED", attached)
    good, old = path.read_bytes(), time.time() - 1000
    rot(path, content)
    os.utime(path, (old, old))
    fault = only_fault(full)
    assert (fault.file, fault.repair.startswith(REPAIR)) == (path, True)
    result = heal(full)
    assert (result.faults, files(full, result.healed)) == ([], files(full, [fault]))
    assert path.read_bytes() == good
    assert abs(path.stat().st_mtime - old) < 1, "it is no newer than it was"
    assert list(quarantined(full).values()) == [content]
    assert verify(full).faults == []


def test_a_version_that_is_lost_without_a_tombstone_comes_back(full: Registry) -> None:
    path = full.root / "refs/coco/versions/2"
    good = path.read_bytes()
    path.unlink()
    fault = only_fault(full)
    assert (fault.what, fault.found) == ("coco@2", "no file")
    assert heal(full).faults == []
    assert path.read_bytes() == good


def test_a_whole_name_comes_back_from_its_history(full: Registry) -> None:
    versions = full.root / "refs/flickr/versions"
    (versions / "1").unlink()
    versions.rmdir()
    assert heal(full).faults == []
    assert full.read(full.resolve("flickr"), "adapter.safetensors") == b"flickr"


def test_a_result_that_is_lost_between_others_comes_back(full: Registry) -> None:
    attached = full.root / "refs/coco/attached" / full.resolve("coco@1").digest[:16]
    (attached / "evaluation/1").unlink()
    assert only_fault(full).what == "coco@1 evaluation 1"
    assert heal(full).faults == []
    documents = [item["document"]["rsum"] for item in full.attachments(full.resolve("coco@1"))]
    assert documents == [500.0, 510.0]


def test_an_alias_is_healed_from_its_digest_where_the_history_is_gone(full: Registry) -> None:
    path = full.root / "refs/coco/aliases/prod"
    good = path.read_bytes()
    rot(path, b"2" + good[1:])
    forget(full)
    assert only_fault(full).file == path, "nothing is wrong with the version it leads to"
    assert heal(full).faults == []
    assert path.read_bytes() == good
    rot(path, good[:10] + b"\n")
    (fault,) = heal(full).faults
    assert "mwactl registry alias coco@VERSION prod" in fault.repair


def test_a_version_is_healed_from_its_alias_where_the_history_is_gone(full: Registry) -> None:
    forget(full)
    path = full.root / "refs/coco/versions/1"
    good = path.read_bytes()
    rot(path)
    assert heal(full).faults == []
    assert path.read_bytes() == good


def test_an_alias_that_moved_after_the_last_line_of_the_history_stays_where_it_is(full: Registry) -> None:
    full.alias("coco", "prod", 2)
    log, alias = full.root / "refs/coco/log.jsonl", full.root / "refs/coco/aliases/prod"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert verify(full).faults == []
    good = alias.read_bytes()
    rot(alias, b"1" + good[1:])
    assert only_fault(full).repair.endswith("(leads to coco@2 then)")
    heal(full)
    assert alias.read_bytes() == good


def test_a_version_of_which_nothing_is_left_is_told_from_a_removed_one(full: Registry) -> None:
    (full.root / "refs/flickr/versions/1").unlink()
    lost = full._folder("flickr").history.records()[0]["new"]["digest"]
    full._blobs.path(lost).unlink()
    fault = only_fault(full)
    assert (fault.what, fault.found, fault.content) == ("flickr@1", "no file", None)
    assert plan_gc(full).faults == (), "it hides nothing"


def test_an_alias_with_another_number_makes_no_version(full: Registry) -> None:
    path = full.root / "refs/coco/aliases/prod"
    good = path.read_bytes()
    rot(path, b"9" + good[1:])
    assert only_fault(full).file == path
    assert heal(full).faults == []
    assert path.read_bytes() == good


def test_a_version_without_a_witness_stays_as_it_is(full: Registry) -> None:
    forget(full)
    path = full.root / "refs/coco/versions/2"
    rot(path)
    (fault,) = heal(full).faults
    assert fault.repair.endswith("mwactl registry rm coco@2")
    assert path.read_bytes() == b"rot", "the number stays taken"


def test_a_damaged_version_that_is_given_up_leaves_no_fault_behind(full: Registry) -> None:
    forget(full)
    rot(full.root / "refs/coco/versions/2")
    full.remove(next(entry for entry in full.entries("coco") if isinstance(entry, BrokenEntry)))
    forget(full)
    assert only_fault(full).what == "coco@2, removed"
    assert heal(full).faults == []
    assert list(quarantined(full).values()) == [b"rot"]
    assert full._folder("coco").versions.numbers() == [1]
    assert full._folder("coco").versions.removed() == [2, 3]


def test_what_cannot_even_be_copied_moves_to_quarantine_itself(full: Registry) -> None:
    path = full.root / "refs/coco/aliases/prod"
    good = path.read_bytes()
    path.unlink()
    path.mkdir()
    assert heal(full).faults == []
    assert path.read_bytes() == good
    assert [kept.is_dir() for kept in (full.root / "quarantine").iterdir()] == [True]


def test_a_history_loses_only_its_damaged_lines_and_can_still_be_written(full: Registry) -> None:
    path = full.root / "refs/coco/log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], lines[1].replace(b"attach", b"attack", 1), *lines[2:], b'{"torn'])
    rot(path, damaged)
    mode = path.stat().st_mode
    assert files(full, verify(full).faults) == ["refs/coco/log.jsonl"]
    assert heal(full).faults == []
    assert path.read_bytes() == b"".join([lines[0], *lines[2:]])
    assert path.stat().st_mode == mode
    assert list(quarantined(full).values()) == [damaged]
    full.alias("coco", "prod", 2)
    assert full.history("coco")[-1]["verb"] == "alias"


def test_a_contradiction_between_two_whole_versions_is_reported_and_not_decided(full: Registry) -> None:
    path = full.root / "refs/coco/versions/2"
    rot(path, (full.root / "refs/coco/versions/1").read_bytes())
    (fault,) = heal(full).faults
    assert (fault.what, "(says the history, or an alias)" in fault.expected) == ("coco@2", True)


def test_what_is_healed_lets_other_faults_be_seen(full: Registry) -> None:
    rot(full._blobs.path(full.resolve("coco@2").manifest["files"][0]["sha256"]))
    rot(full.root / "refs/coco/versions/2")
    result = heal(full)
    assert files(full, result.healed) == ["refs/coco/versions/2"]
    assert [fault.what for fault in result.faults] == ["coco@2 adapter.safetensors"]


@pytest.mark.parametrize("call", ["write", "fsync", "chmod", "replace", "mkdir"])
def test_a_disk_that_fills_up_during_a_repair_loses_nothing(
    full: Registry, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    refs, real = full.root / "refs/coco", getattr(os, call)
    damaged = [refs / "versions/2", refs / "aliases/prod", refs / "tags.json"]
    right = [path.read_bytes() for path in damaged]
    for path in damaged:
        rot(path)
    for first in range(1, 60):
        calls = iter(range(1, 1000))

        def failing(*arguments: Any, calls: Any = calls, first: int = first, **options: Any) -> Any:
            if next(calls) >= first:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                heal(full)
            except ResourceError as error:
                assert error.exit_code == 6
            else:
                break
        assert list((full.root / "tmp").iterdir()) == []
        assert all(path.read_bytes() in (b"rot", good) for path, good in zip(damaged, right, strict=True))
        for path in damaged:
            rot(path)
    assert first > 1, "the call was never made"
    assert [path.read_bytes() for path in damaged] == right


def test_a_kill_at_any_system_call_of_a_repair_loses_no_byte(memory_disk: Path, drive: Drive) -> None:
    report = json.loads(drive("health_driver.py", memory_disk, "repair"))
    assert report["failures"] == []
    assert report["calls"] >= 60
    assert report["kills"] > 2 * report["calls"], "before and after every call, and within every write"


def test_the_kill_test_finds_a_repair_in_place(memory_disk: Path, drive: Drive) -> None:
    report = json.loads(drive("health_driver.py", memory_disk, "repair", "sabotage"))
    assert any("gone without a copy" in failure for failure in report["failures"])
