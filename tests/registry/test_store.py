from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError, NotFoundError, UsageError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry import Entry, Registry

Publish = Callable[..., Entry]


def test_a_published_file_is_read_back_as_it_was(registry: Registry, tmp_path: Path) -> None:
    source = tmp_path / "adapter.safetensors"
    source.write_bytes(b"tensors")
    entry = registry.publish(
        "coco",
        kind="adapter",
        files={"adapter.safetensors": source, "recipe.yaml": b"seed: 0\n"},
        facts={"method": {"name": "mwa", "config": {"bottleneck": 64}}, "train": None},
        verb="train",
    )
    assert (entry.name, entry.version, entry.reference, entry.size_bytes) == ("coco", 1, "coco@1", 15)
    assert entry.digest == sha256_bytes(canonical_json(entry.manifest))
    assert entry.manifest["method"]["config"] == {"bottleneck": 64}
    assert registry.read(entry, "adapter.safetensors") == b"tensors"
    assert registry.read(entry, "recipe.yaml") == b"seed: 0\n"
    assert registry.resolve("coco") == entry


def test_the_layout_on_disk_is_the_documented_one(registry: Registry, publish: Publish) -> None:
    entry = publish()
    root, blob = registry.root, entry.manifest["files"][0]["sha256"]
    assert (root / "refs/coco/versions/1").read_text() == f"{entry.digest}\n"
    assert (root / f"blobs/sha256/{blob[:2]}/{blob}").read_bytes() == b"tensors"
    assert (root / f"blobs/sha256/{entry.digest[:2]}/{entry.digest}").read_bytes() == canonical_json(entry.manifest)
    assert (root / "refs/coco/log.jsonl").read_text().count("\n") == 1


def test_the_same_content_twice_is_one_version(registry: Registry, publish: Publish) -> None:
    first = publish()
    files = sorted(path for path in registry.root.rglob("*") if path.is_file())
    assert publish() == first
    assert sorted(path for path in registry.root.rglob("*") if path.is_file()) == files
    assert len(registry.history("coco")) == 1


def test_content_that_comes_back_is_a_new_version_with_the_old_digest(registry: Registry, publish: Publish) -> None:
    versions = [publish(data=data) for data in (b"a", b"b", b"a")]
    assert [entry.version for entry in versions] == [1, 2, 3]
    assert versions[0].digest == versions[2].digest
    assert registry.resolve(f"coco@sha256:{versions[0].digest[:8]}").version == 3


def test_the_same_content_under_two_names_has_one_digest(publish: Publish) -> None:
    assert publish("coco").digest == publish("flickr").digest


def test_other_facts_make_another_version(publish: Publish) -> None:
    assert publish().digest != publish(base={"backbone": "other"}).digest


def test_names_are_folded_to_lower_case(registry: Registry, publish: Publish) -> None:
    assert publish("COCO").reference == "coco@1"
    assert publish("Coco", data=b"more").reference == "coco@2"
    assert registry.resolve("cOCO@1").version == 1


@pytest.mark.parametrize("name", ["..", "a/b", "/a", "a\0b", "CON", "", "a..b"])
def test_a_refused_name_creates_nothing(registry: Registry, publish: Publish, name: str) -> None:
    with pytest.raises(UsageError):
        publish(name)
    assert not registry.root.exists()


def test_a_mistake_in_the_arguments_creates_nothing(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        publish(loss=float("inf"))
    with pytest.raises(NotFoundError, match="not there"):
        registry.publish("coco", kind="adapter", files={"a": tmp_path / "absent"}, facts={}, verb="train")
    with pytest.raises(UsageError, match="path"):
        registry.publish("coco", kind="adapter", files={"../a": b""}, facts={}, verb="train")
    assert not registry.root.exists()


def test_a_source_that_cannot_be_opened_is_told_apart_from_the_registry(
    registry: Registry, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    monkeypatch.setattr("mwactl.registry.store._size", lambda _: 0)  # it was there a moment ago
    with pytest.raises(MwactlError, match="a file to publish cannot be read"):
        registry.publish("coco", kind="adapter", files={"a": tmp_path / "gone"}, facts={}, verb="train")
    assert list((registry.root / "tmp").iterdir()) == []


def test_the_history_says_what_was_replaced_by_what(registry: Registry, publish: Publish) -> None:
    first, second = publish(), publish(data=b"more")
    assert [(line["verb"], line["old"], line["new"]) for line in registry.history("coco")] == [
        ("train", None, {"version": 1, "digest": first.digest}),
        ("train", {"version": 1, "digest": first.digest}, {"version": 2, "digest": second.digest}),
    ]


def test_created_is_now_and_survives_a_copy_without_time_stamps(registry: Registry, publish: Publish) -> None:
    entry = publish()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(entry.created)) < timedelta(minutes=1)
    os.utime(registry.root / "refs/coco/versions/1", (0, 0))
    assert registry.resolve("coco").created == entry.created


def test_created_is_the_same_without_the_log(registry: Registry, publish: Publish) -> None:
    entry = publish()
    (registry.root / "refs/coco/log.jsonl").unlink()
    assert registry.resolve("coco").created == entry.created


def test_every_kind_of_reference_finds_its_version(registry: Registry, publish: Publish) -> None:
    first, second = publish(), publish(data=b"more")
    assert registry.resolve("coco") == second
    assert registry.resolve("coco@1") == first
    assert registry.resolve(f"coco@sha256:{first.digest[:8]}") == first
    assert registry.resolve(f"coco@sha256:{first.digest}") == first


def test_no_reference_means_the_version_published_last(registry: Registry, publish: Publish) -> None:
    publish("zebra")
    publish("coco")
    publish("zebra", data=b"more")
    assert registry.resolve(None).reference == "zebra@2"
    publish("aardvark")
    assert registry.resolve(None).reference == "aardvark@1"


def test_an_unknown_name_is_answered_with_close_ones(registry: Registry, publish: Publish) -> None:
    publish("coco-mwa")
    with pytest.raises(NotFoundError) as error:
        registry.resolve("coco-mva")
    assert "did you mean coco-mwa?" in str(error.value)
    assert error.value.fix == "mwactl registry list"


def test_an_unknown_version_is_answered_with_those_there_are(registry: Registry, publish: Publish) -> None:
    publish(), publish(data=b"more")
    with pytest.raises(NotFoundError, match="its versions are 1, 2"):
        registry.resolve("coco@3")
    for number in range(10):
        publish(data=bytes([number]))
    with pytest.raises(NotFoundError, match=r"its newest versions are 5, 6, .*12"):
        registry.resolve("coco@99")


def test_an_unknown_digest_is_not_found(registry: Registry, publish: Publish) -> None:
    publish()
    with pytest.raises(NotFoundError, match="no version of that name has this digest"):
        registry.resolve("coco@sha256:" + "0" * 8)


def test_a_digest_prefix_of_two_contents_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    for number, digest in ((2, "ab12cdef" + "0" * 56), (3, "ab12cdef" + "1" * 56)):
        (registry.root / f"refs/coco/versions/{number}").write_text(f"{digest}\n")
    with pytest.raises(UsageError, match="coco@2 and coco@3"):
        registry.resolve("coco@sha256:ab12cdef")


def test_an_alias_that_is_not_there_is_answered_with_those_that_are(registry: Registry, publish: Publish) -> None:
    publish()
    with pytest.raises(NotFoundError, match="there is no alias coco:prod"):
        registry.resolve("coco:prod")
    registry.alias("coco", "prod", 1)
    with pytest.raises(NotFoundError, match="did you mean prod"):
        registry.resolve("coco:prd")
    with pytest.raises(NotFoundError, match="there are: prod"):
        registry.resolve("coco:other")
    assert registry.resolve("COCO:Prod").version == 1


def test_entries_are_listed_by_name_and_newest_first(registry: Registry, publish: Publish) -> None:
    publish("b"), publish("a"), publish("b", data=b"more")
    assert [entry.reference for entry in registry.entries()] == ["a@1", "b@2", "b@1"]


def test_a_file_that_the_entry_does_not_have_is_not_found(registry: Registry, publish: Publish) -> None:
    with pytest.raises(NotFoundError, match=r"adapter\.safetensors"):
        registry.read(publish(), "config.json")


def test_lineage_is_breadth_first_and_names_each_ancestor_once(registry: Registry, publish: Publish) -> None:
    root = publish("root", data=b"0")
    left, right = (
        publish("left", data=b"1", parents=(root.digest,)),
        publish("right", data=b"2", parents=(root.digest,)),
    )
    merged = publish("merged", data=b"3", parents=(right.digest, left.digest))
    lineage = registry.lineage(merged)
    assert [manifest["digest"] for manifest in lineage] == [merged.digest, right.digest, left.digest, root.digest]
    assert lineage[1] == right.manifest | {"digest": right.digest}
    assert "digest" not in merged.manifest, "an entry's own manifest stays what was published"


def test_lineage_shows_a_missing_and_a_corrupt_ancestor(registry: Registry, publish: Publish) -> None:
    rotten, gone = publish("rotten", data=b"1"), "0" * 64
    path = registry.root / "blobs/sha256" / rotten.digest[:2] / rotten.digest
    path.chmod(0o644)
    path.write_bytes(b"{}")
    child = publish("child", data=b"2", parents=(gone, rotten.digest))
    missing, corrupt = registry.lineage(child)[1:]
    assert missing == {"missing": gone}
    assert corrupt["missing"] == rotten.digest
    assert "corrupt" in corrupt["problem"]


def test_references_lead_from_a_digest_to_its_names(registry: Registry, publish: Publish) -> None:
    entry = publish("a")
    publish("b")
    assert registry.references() == {entry.digest: ["a@1", "b@1"]}


def test_a_file_is_no_registry(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="no directory"):
        Registry(tmp_path / "file")


def test_the_default_registry_is_in_the_home_of_mwactl(
    empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Registry.default().root == empty_home / "registry"
    monkeypatch.setenv("MWACTL_REGISTRY", str(tmp_path / "elsewhere"))
    assert Registry.default().root == tmp_path / "elsewhere"


def test_a_version_without_files_can_be_published(registry: Registry) -> None:
    facts: dict[str, Any] = {}
    entry = registry.publish("empty", kind="note", files={}, facts=facts, verb="add")
    assert (entry.size_bytes, entry.manifest["files"]) == (0, [])
