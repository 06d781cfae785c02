from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import IncompatibleError, NotFoundError, ResourceError, VerificationError
from mwactl.registry import Entry, Registry, gc, writing
from mwactl.registry.gc import apply_gc, plan_gc
from mwactl.registry.verify import repair, verify

Publish = Callable[..., Entry]
Drive = Callable[..., str]
DAY_S = 24 * 3600


def blobs(registry: Registry) -> set[str]:
    return {path.name for path in registry.root.glob("blobs/sha256/*/*")}


def age(registry: Registry, days: float = 2.0) -> None:
    """Make every file as old as this."""
    then = time.time() - days * DAY_S
    for path in registry.root.rglob("*"):
        os.utime(path, (then, then))


def collect(registry: Registry, grace_s: float = 0.0) -> gc.GcPlan:
    return apply_gc(registry, plan_gc(registry, grace_s))


def rot(path: Path, data: bytes = b"rot") -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@contextmanager
def no_lock(*_: Any) -> Iterator[bool]:
    """A lock that says it is one, and is none."""
    yield True


def test_what_a_version_needs_is_never_planned(registry: Registry, publish: Publish) -> None:
    first = publish()
    second = publish(data=b"other", parents=(first.digest,))
    registry.attach(second, "evaluation", {"rsum": 500.0})
    plan = plan_gc(registry, 0.0)
    assert (plan.doomed, plan.faults, plan.young) == ([], (), 0)


def test_the_plan_writes_nothing(registry: Registry, publish: Publish, snapshot: Callable[[Path], Any]) -> None:
    registry.remove(publish())
    before = snapshot(registry.root)
    assert plan_gc(registry, 0.0).blobs
    assert snapshot(registry.root) == before


def test_what_only_a_removed_version_needed_goes_with_its_results(registry: Registry, publish: Publish) -> None:
    kept, removed = publish(), publish(data=b"other")
    for entry in (kept, removed):
        registry.attach(entry, "evaluation", {"version": entry.version})
    needed = blobs(registry)
    registry.remove(removed)
    done = collect(registry)
    assert (len(done.blobs), len(done.attachments), done.forgotten) == (3, 1, ("coco@2",))
    assert len(blobs(registry)) == len(needed) - 3
    assert registry.read(registry.resolve("coco"), "adapter.safetensors") == b"tensors"
    assert [item["document"] for item in registry.attachments(kept)] == [{"version": 1}]
    assert not verify(registry).faults
    with pytest.raises(NotFoundError):
        registry.restore("coco", 2)


def test_the_results_of_a_removed_version_stay_as_long_as_its_manifest(registry: Registry, publish: Publish) -> None:
    entry = publish("coco")
    publish("flickr")
    registry.attach(entry, "evaluation", {"rsum": 1})
    registry.remove(entry)
    assert not collect(registry).doomed
    assert verify(registry).faults == []
    pointer = next((registry.root / "refs/coco/attached").glob("*/evaluation/1"))
    pointer.unlink()
    assert [fault.file for fault in plan_gc(registry, 0.0).faults] == [pointer]
    with pytest.raises(VerificationError, match="nothing was deleted"):
        collect(registry)
    repair(registry, verify(registry))
    registry.restore("coco", 1)
    assert [item["document"] for item in registry.attachments(entry)] == [{"rsum": 1}]


def test_content_that_another_name_still_has_stays(registry: Registry, publish: Publish) -> None:
    publish("coco"), publish("flickr")
    registry.remove(registry.resolve("coco"))
    assert not collect(registry).blobs
    assert registry.read(registry.resolve("flickr"), "adapter.safetensors") == b"tensors"


def test_parents_are_weak(registry: Registry, publish: Publish) -> None:
    parent = publish("parent", data=b"old")
    child = publish("child", parents=(parent.digest,))
    registry.remove(parent)
    assert len(collect(registry).blobs) == 2
    assert registry.lineage(child)[1] == {"missing": parent.digest}
    assert not verify(registry).faults


def test_an_alias_keeps_content_whose_version_is_gone(registry: Registry, publish: Publish) -> None:
    entry = publish()
    registry.alias("coco", "prod", 1)
    versions = registry.root / "refs/coco/versions"
    (versions / "1").rename(versions / "1.removed")
    assert not collect(registry).blobs
    assert entry.digest in blobs(registry)


def test_a_version_removed_within_the_grace_period_can_be_restored(registry: Registry, publish: Publish) -> None:
    entry = publish()
    registry.attach(entry, "evaluation", {"rsum": 1})
    age(registry)
    registry.remove(entry)
    assert not collect(registry, DAY_S).doomed, "the content is old, the removal is not"
    registry.restore("coco", 1)
    assert registry.read(registry.resolve("coco"), "adapter.safetensors") == b"tensors"
    assert len(registry.attachments(entry)) == 1


def test_only_what_is_older_than_the_grace_period_goes(registry: Registry, publish: Publish) -> None:
    publish()
    old, _ = registry._blobs.put(b"old")
    (registry.root / "tmp/old.part").write_bytes(b"old")
    age(registry)
    young, _ = registry._blobs.put(b"young")
    (registry.root / "tmp/young.part").write_bytes(b"young")
    plan = plan_gc(registry, DAY_S)
    assert [file.path.name for file in plan.doomed] == [old, "old.part"]
    assert (plan.size_bytes, plan.young) == (6, 2)
    apply_gc(registry, plan)
    assert young in blobs(registry)
    assert old not in blobs(registry)
    assert [path.name for path in (registry.root / "tmp").iterdir()] == ["young.part"]


def test_publishing_known_content_makes_it_young_again(registry: Registry, publish: Publish) -> None:
    registry.remove(publish())
    age(registry)
    plan = plan_gc(registry, 0.0)
    publish()
    assert not apply_gc(registry, plan).blobs, "needed again since the plan was made"
    assert not verify(registry).faults


def test_what_the_plan_did_not_announce_stays(registry: Registry, publish: Publish) -> None:
    publish()
    plan = plan_gc(registry, 0.0)
    registry._blobs.put(b"later")
    assert not apply_gc(registry, plan).doomed
    assert len(blobs(registry)) == 3


def test_a_file_that_another_took_first_is_no_error(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.remove(publish())
    before, real = blobs(registry), gc._discard

    def late(root: Path, path: Path, limit_ns: int) -> bool:
        if path.name == min(before):
            path.unlink()
        return real(root, path, limit_ns)

    monkeypatch.setattr(gc, "_discard", late)
    assert {each.path.name for each in collect(registry).blobs} == before - {min(before)}
    assert blobs(registry) == set()


def test_quarantine_is_counted_and_never_touched(registry: Registry, publish: Publish) -> None:
    entry = publish()
    rot(registry._blobs.path(entry.digest))
    publish()
    age(registry)
    plan = collect(registry)
    assert [file.size for file in plan.quarantined] == [3]
    assert len(list((registry.root / "quarantine").iterdir())) == 1


@pytest.mark.parametrize(
    "damage", [
        "version", "lost version", "manifest", "lost manifest", "alias", "attachment", "lost attachment"
    ],
)  # fmt: skip
def test_a_reference_in_doubt_stops_everything(registry: Registry, publish: Publish, damage: str) -> None:
    registry.remove(publish(data=b"gone"))
    entry = publish()
    registry.attach(entry, "evaluation", {"rsum": 1})
    registry.alias("coco", "prod", 2)
    plan = plan_gc(registry, 0.0)
    assert plan.blobs
    refs, manifest = registry.root / "refs/coco", registry._blobs.path(entry.digest)
    attached = refs / "attached" / entry.digest[:16] / "evaluation/1"
    of = {"version": refs / "versions/2", "manifest": manifest, "alias": refs / "aliases/prod", "attachment": attached}
    damaged = of[damage.removeprefix("lost ")]
    damaged.unlink() if damage.startswith("lost ") else rot(damaged)
    before = blobs(registry)
    stopped = plan_gc(registry, 0.0)
    assert damaged in [fault.file for fault in stopped.faults]
    assert stopped.doomed == []
    with pytest.raises(VerificationError, match="nothing was deleted") as error:
        apply_gc(registry, plan)
    assert error.value.exit_code == 5
    assert blobs(registry) == before


def test_a_damaged_history_or_tags_do_not_stop_it(registry: Registry, publish: Publish) -> None:
    registry.tag(publish(), {"split": "val"})
    registry._blobs.put(b"orphan")
    rot(registry.root / "refs/coco/tags.json")
    rot(registry.root / "refs/coco/log.jsonl")
    assert len(collect(registry).blobs) == 1


@pytest.mark.parametrize("directory", ["coco/versions", "coco/aliases", "coco/attached", "."])
def test_a_directory_that_cannot_be_listed_stops_it(registry: Registry, publish: Publish, directory: str) -> None:
    registry.attach(publish(), "evaluation", {"rsum": 1})
    registry.alias("coco", "prod", 1)
    path = registry.root / "refs" / directory
    path.rename(registry.root / "moved")
    path.write_text("no directory")
    before = blobs(registry)
    with pytest.raises(VerificationError, match="nothing was deleted"):
        collect(registry)
    assert path in [fault.file for fault in plan_gc(registry, 0.0).faults]
    assert blobs(registry) == before


def test_blobs_without_any_references_directory_are_not_believed(registry: Registry, publish: Publish) -> None:
    publish()
    (registry.root / "refs").rename(registry.root / "refs-moved")
    plan = plan_gc(registry, 0.0)
    assert (plan.doomed, len(plan.faults)) == ([], 1)


def test_a_registry_of_a_newer_version_is_left_alone(registry: Registry, publish: Publish) -> None:
    publish()
    rot(registry.root / "layout.json", b'{"layout": 2}')
    with pytest.raises(IncompatibleError):
        plan_gc(registry, 0.0)


def test_an_entry_of_a_newer_schema_stops_it(registry: Registry, publish: Publish) -> None:
    publish()
    digest, _ = registry._blobs.put(b'{"schema":2}')
    (registry.root / "refs/coco/versions/2").write_text(f"{digest}\n")
    (fault,) = plan_gc(registry, 0.0).faults
    assert "newer mwactl" in fault.found
    assert fault.repair == "pip install --upgrade mwactl"


def test_a_registry_that_is_not_there_is_not_made(registry: Registry) -> None:
    assert not collect(registry).doomed
    assert not registry.root.exists()


def test_strange_files_are_left_alone(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    publish()
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    fan = registry.root / "blobs/sha256/ab"
    fan.mkdir(exist_ok=True)
    (fan / "README").write_text("?")
    (fan / ("ab" * 32)).symlink_to(outside)
    (registry.root / "tmp/directory").mkdir()
    assert not collect(registry).doomed
    assert outside.read_bytes() == b"mine"


def test_a_fresh_copy_put_by_a_writer_without_a_lock_survives(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.remove(publish())
    age(registry, 3)
    monkeypatch.setattr(gc, "_limit_ns", lambda grace_s: time.time_ns() - DAY_S * 10**9)
    monkeypatch.setattr("mwactl.registry.census._changed_ns", lambda path: path.stat().st_mtime_ns)
    monkeypatch.setattr(writing, "_locked", no_lock)
    real, published = gc._discard, []

    def discard(root: Path, path: Path, limit_ns: int) -> bool:
        if not published:
            published.append(publish())
        return real(root, path, limit_ns)

    monkeypatch.setattr(gc, "_discard", discard)
    assert not collect(registry, DAY_S).blobs
    assert registry.read(published[0], "adapter.safetensors") == b"tensors"


def test_without_a_lock_a_grace_period_is_required(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    registry._blobs.put(b"orphan")

    @contextmanager
    def without(*_: Any) -> Iterator[bool]:
        yield False

    monkeypatch.setattr(writing, "_locked", without)
    with pytest.raises(ResourceError, match="without a lock") as error:
        collect(registry, 10.0)
    assert error.value.exit_code == 6
    assert len(blobs(registry)) == 3
    assert not collect(registry, 60.0).doomed
    age(registry)
    assert len(collect(registry, 60.0).blobs) == 1


def test_it_makes_room_on_a_full_disk(registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    registry._blobs.put(b"orphan")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    assert len(collect(registry).blobs) == 1


def test_a_kill_at_any_system_call_loses_nothing_that_is_needed(memory_disk: Path, drive: Drive) -> None:
    report = json.loads(drive("health_driver.py", memory_disk, "gc"))
    assert report["failures"] == []
    assert report["calls"] >= 30
    assert report["kills"] == 2 * report["calls"], "before and after every call"


@pytest.mark.parametrize(("lock", "grace_s"), [("locked", "0"), ("unlocked", "60")])
def test_beside_writers_it_takes_nothing_from_them(memory_disk: Path, drive: Drive, lock: str, grace_s: str) -> None:
    root = memory_disk / "registry"
    ran = json.loads(drive("gc_beside_writers.py", root, "4", "15", lock, grace_s))
    assert (ran["failed"], ran["gc"] >= 5) == (0, True)
    assert len(Registry(root).entries()) == 60
    assert verify(Registry(root)).faults == []
