from __future__ import annotations

from collections.abc import Callable

import pytest

from mwactl.errors import NotFoundError, UsageError, VerificationError
from mwactl.registry import BrokenEntry, Entry, Registry

Publish = Callable[..., Entry]


def test_a_removed_version_is_gone_for_readers_and_its_content_stays(registry: Registry, publish: Publish) -> None:
    first, second = publish(), publish(data=b"more")
    (change,) = registry.remove(second)
    assert (change.old, change.new) == ({"version": 2, "digest": second.digest}, None)
    assert [entry.reference for entry in registry.entries()] == ["coco@1"]
    assert registry.resolve("coco") == first
    assert (registry.root / "refs/coco/versions/2.removed").read_text() == f"{second.digest}\n"
    assert registry._blobs.path(second.digest).exists()
    with pytest.raises(NotFoundError, match="coco@2 was removed") as error:
        registry.resolve("coco@2")
    assert error.value.fix == "mwactl registry rm --undo coco@2"
    with pytest.raises(NotFoundError, match="no version of that name has this digest"):
        registry.resolve(f"coco@sha256:{second.digest}")


def test_the_number_of_a_removed_version_is_never_given_again(registry: Registry, publish: Publish) -> None:
    entry = publish()
    registry.remove(entry)
    again = publish()
    assert (again.version, again.digest) == (2, entry.digest)


def test_a_restored_version_is_what_it_was(registry: Registry, publish: Publish) -> None:
    publish(), (entry := publish(data=b"more"))
    registry.tag(entry, {"split": "val"})
    registry.remove(entry)
    change = registry.restore("COCO", 2)
    assert registry.resolve("coco") == entry, "also when it was published"
    assert registry.tags("coco") == {2: {"split": "val"}}
    assert change.undo == "mwactl registry rm coco@2"
    assert [line["verb"] for line in registry.history("coco")][-2:] == ["remove", "restore"]


def test_the_last_version_leaves_the_history_and_says_how_to_get_it_back(registry: Registry, publish: Publish) -> None:
    registry.remove(publish())
    assert [line["verb"] for line in registry.history("coco")] == ["train", "remove"]
    with pytest.raises(NotFoundError, match="every version of 'coco' was removed") as error:
        registry.resolve("coco")
    assert error.value.fix == "mwactl registry rm --undo coco@1"
    with pytest.raises(NotFoundError, match="empty"):
        registry.resolve(None)


def test_a_version_with_an_alias_is_removed_with_force_alone_and_the_alias_goes_too(
    registry: Registry, publish: Publish
) -> None:
    entry = publish()
    registry.alias("coco", "prod", 1)
    registry.alias("coco", "best", 1)
    with pytest.raises(UsageError, match="has an alias: best, prod"):
        registry.remove(entry)
    assert registry.resolve("coco:prod") == entry
    changes = registry.remove(entry, force=True)
    assert [(change.verb, change.undo) for change in changes] == [
        ("alias", "mwactl registry alias coco@1 best"),
        ("alias", "mwactl registry alias coco@1 prod"),
        ("remove", "mwactl registry rm --undo coco@1"),
    ]
    assert (registry.aliases("coco"), registry.entries()) == ({}, [])
    assert [line["verb"] for line in registry.history("coco")] == [
        "train",
        "alias",
        "alias",
        "alias",
        "alias",
        "remove",
    ]


def test_a_corrupt_version_can_be_removed(registry: Registry, publish: Publish) -> None:
    entry, other = publish(), publish(data=b"more")
    path = registry._blobs.path(entry.digest)
    path.chmod(0o644)
    path.write_bytes(b"rot")
    found = registry.locate("coco@1")
    assert isinstance(found, BrokenEntry)
    registry.remove(found)
    assert registry.entries() == [other]
    with pytest.raises(VerificationError, match="manifest of coco@1 is corrupt"):
        registry.restore("coco", 1)
    assert registry.entries() == [other]


def test_a_version_with_a_corrupt_pointer_can_be_removed_and_is_not_restored(
    registry: Registry, publish: Publish
) -> None:
    publish()
    pointer = registry.root / "refs/coco/versions/1"
    pointer.chmod(0o644)
    pointer.write_bytes(b"rot")
    registry.remove(registry.locate("coco@1"))
    assert registry.entries() == []
    with pytest.raises(VerificationError, match="pointer is corrupt"):
        registry.restore("coco", 1)


def test_what_is_gone_is_neither_removed_nor_restored(registry: Registry, publish: Publish) -> None:
    entry = publish()
    with pytest.raises(NotFoundError, match="coco@1 was not removed"):
        registry.restore("coco", 1)
    registry.remove(entry)
    with pytest.raises(NotFoundError, match="there is no coco@1"):
        registry.remove(entry)
    with pytest.raises(NotFoundError, match="removed are coco@1"):
        registry.restore("coco", 2)


def test_a_version_whose_content_was_deleted_stays_removed(registry: Registry, publish: Publish) -> None:
    entry = publish()
    registry.remove(entry)
    registry._blobs.path(entry.digest).unlink()
    with pytest.raises(NotFoundError, match="the content of coco@1 is gone"):
        registry.restore("coco", 1)
    assert registry.entries() == []


def test_a_version_that_lacks_a_file_stays_removed(registry: Registry, publish: Publish) -> None:
    entry = publish()
    registry.remove(entry)
    registry._blobs.path(entry.manifest["files"][0]["sha256"]).unlink()
    with pytest.raises(VerificationError, match=r"adapter\.safetensors of coco@1 is missing"):
        registry.restore("coco", 1)


def test_a_dry_run_writes_nothing(registry: Registry, publish: Publish, snapshot: Callable[..., object]) -> None:
    entry = publish()
    registry.alias("coco", "prod", 1)
    before = snapshot(registry.root)
    assert len(registry.remove(entry, force=True, dry_run=True)) == 2
    assert snapshot(registry.root) == before
    registry.remove(entry, force=True)
    before = snapshot(registry.root)
    assert registry.restore("coco", 1, dry_run=True).version == 1
    assert snapshot(registry.root) == before


def test_a_version_removed_while_it_is_read_is_not_found_and_no_other_is_hidden(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish(), publish(data=b"more")
    stale = registry._folder("coco").versions.numbers()
    registry.remove(second)
    with monkeypatch.context() as patch:  # the reader listed the directory a moment ago
        patch.setattr("mwactl.registry.numbered.NumberedPointers.numbers", lambda _: stale)
        assert registry.entries() == [first]
        with pytest.raises(NotFoundError, match="coco@2 was removed"):
            registry.resolve("coco")
    assert registry.resolve("coco") == first
