from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import IncompatibleError, MwactlError, ResourceError, UsageError, VerificationError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry import BrokenEntry, Entry, Registry
from mwactl.registry.attachments import attachment_bytes, is_local
from mwactl.registry.manifest import file_record, manifest_bytes

Publish = Callable[..., Entry]
DATA = b"tensors from elsewhere"
DIGEST = sha256_bytes(DATA)
FILE = file_record("adapter.safetensors", DIGEST, len(DATA))
FACTS = {"base": {"backbone": "tiny", "fingerprint": "sha256:ab"}, "method": {"name": "mwa"}}
MANIFEST = manifest_bytes("adapter", ["ab" * 32], [FILE], FACTS)


def attached(document: dict[str, Any], kind: str = "evaluation", manifest: bytes = MANIFEST) -> bytes:
    return attachment_bytes(sha256_bytes(manifest), kind, document)


def receive(registry: Registry, name: str = "coco", attachments: tuple[bytes, ...] = ()) -> Entry:
    return registry.receive(name, MANIFEST, {DIGEST: DATA}, attachments, verb="unpack")


def documents(registry: Registry, entry: Entry) -> list[Any]:
    return [attachment["document"] for attachment in registry.attachments(entry)]


def changed(**facts: Any) -> bytes:
    return canonical_json(json.loads(MANIFEST) | facts)


# -- what is taken ---------------------------------------------------------------------------------------------


def test_the_manifest_stays_the_same_to_the_byte(registry: Registry) -> None:
    entry = receive(registry)
    assert (entry.reference, entry.digest) == ("coco@1", sha256_bytes(MANIFEST))
    assert registry._blobs.read(entry.digest, where="it") == MANIFEST
    assert registry.read(entry, "adapter.safetensors") == DATA
    assert entry.manifest["parents"] == ["ab" * 32], "parents need not be here"


def test_it_has_the_digest_that_it_had_where_it_was_published(registry: Registry, memory_disk: Path) -> None:
    other = Registry(memory_disk / "other")
    there = other.publish("x", kind="adapter", files={"adapter.safetensors": DATA}, facts=FACTS, verb="train")
    sent = other._blobs.read(there.digest, where="it")
    here = registry.receive("y", sent, {DIGEST: other._blobs.path(DIGEST)}, verb="unpack")
    assert (here.digest, here.manifest) == (there.digest, there.manifest)


def test_attachments_come_along_in_their_order(registry: Registry) -> None:
    sent = (attached({"rsum": 1}), attached({"rsum": 2}), attached({"rsum": 1}), attached({"s": 3}, "training"))
    entry = receive(registry, attachments=sent)
    assert documents(registry, entry) == [{"rsum": 1}, {"rsum": 2}, {"rsum": 1}, {"s": 3}]


def test_receiving_it_again_changes_nothing(registry: Registry, publish: Publish) -> None:
    sent = (attached({"rsum": 1}), attached({"rsum": 2}), attached({"rsum": 1}))
    first = receive(registry, attachments=sent)
    publish(data=b"newer")
    history = registry.history("coco")
    assert receive(registry, attachments=sent) == first, "also where it is not the newest version"
    assert documents(registry, first) == [{"rsum": 1}, {"rsum": 2}, {"rsum": 1}]
    assert registry.history("coco") == history
    assert registry.resolve("coco").version == 2


def test_what_was_attached_meanwhile_is_added(registry: Registry) -> None:
    entry = receive(registry, attachments=(attached({"rsum": 1}),))
    registry.attach(entry, "evaluation", {"here": 1})
    receive(registry, attachments=(attached({"rsum": 1}), attached({"rsum": 2}), attached({"rsum": 1})))
    assert documents(registry, entry) == [{"rsum": 1}, {"here": 1}, {"rsum": 2}, {"rsum": 1}]


def test_the_history_says_how_it_came(registry: Registry) -> None:
    entry = receive(registry, attachments=(attached({"rsum": 1}),))
    lines = [(line["verb"], line["new"].get("attachment")) for line in registry.history("coco")]
    assert lines == [("unpack", None), ("attach", "evaluation")]
    assert registry.history("coco")[0]["time"] == entry.created


def test_another_name_gets_a_version_of_its_own(registry: Registry) -> None:
    receive(registry)
    assert receive(registry, "Flickr").reference == "flickr@1"
    assert registry.references()[sha256_bytes(MANIFEST)] == ["coco@1", "flickr@1"]


def test_a_rotten_copy_here_heals(registry: Registry) -> None:
    sent = (attached({"rsum": 1}),)
    entry = receive(registry, attachments=sent)
    for digest in (DIGEST, entry.digest, sha256_bytes(sent[0])):
        path = registry._blobs.path(digest)
        path.chmod(0o644)
        path.write_bytes(b"rot")
        assert receive(registry, attachments=sent) == entry
        assert registry.read(registry.resolve("coco"), "adapter.safetensors") == DATA
        assert documents(registry, entry) == [{"rsum": 1}]


def test_a_file_that_is_here_already_need_not_be_sent(registry: Registry, publish: Publish) -> None:
    publish("other", data=DATA)
    entry = registry.receive("coco", MANIFEST, {}, verb="pull")
    assert registry.read(entry, "adapter.safetensors") == DATA


def test_a_content_that_many_files_share_is_written_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [file_record(f"{number}.json", DIGEST, len(DATA)) for number in range(500)]
    put, puts = registry._blobs.put, []
    monkeypatch.setattr(registry._blobs, "put", lambda *args, **kwargs: puts.append(1) or put(*args, **kwargs))
    entry = registry.receive("coco", manifest_bytes("adapter", [], files, {}), {DIGEST: DATA}, verb="pull")
    assert len(puts) == 2, "the content and the manifest"
    assert registry.read(entry, "499.json") == DATA


def test_a_file_that_is_neither_sent_nor_here_is_missed(registry: Registry) -> None:
    with pytest.raises(VerificationError, match=r"adapter\.safetensors is missing"):
        registry.receive("coco", MANIFEST, {}, verb="pull")
    assert registry.entries() == []


def test_a_file_that_is_here_but_rotten_is_not_taken_for_the_one_that_was_not_sent(
    registry: Registry, publish: Publish
) -> None:
    publish("other", data=DATA)
    path = registry._blobs.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(DATA[::-1])
    with pytest.raises(VerificationError, match="corrupt in this registry"):
        registry.receive("coco", MANIFEST, {}, verb="pull")
    assert registry.names() == ["other"]


# -- what is refused -------------------------------------------------------------------------------------------


def refused(registry: Registry, error: type[MwactlError], why: str, *arguments: Any) -> None:
    with pytest.raises(error, match=why):
        registry.receive("coco", *arguments, verb="unpack")
    assert registry.names() == [], "no name"
    blobs = registry.root / "blobs"
    assert not blobs.exists() or DIGEST not in [path.name for path in blobs.rglob("*") if path.read_bytes() != DATA]
    tmp = registry.root / "tmp"
    assert not tmp.exists() or not list(tmp.iterdir())


@pytest.mark.parametrize("data", [DATA[:-1] + b"x", b""], ids=["changed", "empty"])
@pytest.mark.parametrize("from_file", [False, True], ids=["bytes", "file"])
def test_bytes_that_are_not_what_the_manifest_says_get_no_name(
    registry: Registry, tmp_path: Path, data: bytes, from_file: bool
) -> None:
    (tmp_path / "sent").write_bytes(data)
    source = tmp_path / "sent" if from_file else data
    refused(registry, VerificationError, "not what", MANIFEST, {DIGEST: source})
    assert not list((registry.root / "blobs").rglob("*")), "not even as a blob"
    assert data or not registry.root.exists(), "a wrong size is seen before anything is written"


def test_a_stretch_that_says_one_size_and_has_another_gets_no_name(registry: Registry) -> None:
    class Liar:
        size = len(DATA)

        def chunks(self) -> list[bytes]:
            return [DATA, b"and more"]

    refused(registry, VerificationError, "not what its digest says", MANIFEST, {DIGEST: Liar()})


def test_a_file_that_is_not_there_is_missed_before_anything_is_written(registry: Registry, tmp_path: Path) -> None:
    refused(registry, VerificationError, "is not there", MANIFEST, {DIGEST: tmp_path / "nothing"})
    assert not registry.root.exists()


@pytest.mark.parametrize("path", ["adapter.pt", "a/MODEL.PTH", "weights.bin"])
def test_a_pickle_is_refused(registry: Registry, path: str) -> None:
    manifest = manifest_bytes("adapter", [], [file_record(path, DIGEST, len(DATA))], {})
    refused(registry, VerificationError, "pickle", manifest, {DIGEST: DATA})
    assert not registry.root.exists()


@pytest.mark.parametrize("path", ["../adapter.safetensors", "/etc/passwd", "a\\b", "C:a", "a//b", "", "a\nb"])
def test_a_path_that_leads_out_of_the_entry_is_refused(registry: Registry, path: str) -> None:
    manifest = manifest_bytes("adapter", [], [file_record(path, DIGEST, len(DATA))], {})
    refused(registry, VerificationError, "malformed", manifest, {DIGEST: DATA})


def test_two_files_whose_paths_differ_in_case_alone_are_refused(registry: Registry) -> None:
    files = [file_record(path, DIGEST, len(DATA)) for path in ("a.json", "A.json")]
    refused(registry, VerificationError, "twice", manifest_bytes("adapter", [], files, {}), {DIGEST: DATA})


def test_a_manifest_of_a_newer_version_is_incompatible(registry: Registry) -> None:
    refused(registry, IncompatibleError, "newer", changed(schema=2), {DIGEST: DATA})


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (MANIFEST + b" ", "spelt"),
        (json.dumps(json.loads(MANIFEST)).encode(), "spelt"),
        (MANIFEST[:-1], "no JSON"),
        (b"[]", "no JSON object"),
        (MANIFEST.replace(b'"kind":"adapter"', b'"kind":"adapter","kind":"x"'), "twice"),
        (MANIFEST.replace(b'"tiny"', b"1e999"), "cannot be kept"),
        (MANIFEST.replace(b'"tiny"', b'"\\ud800"'), "cannot be kept"),
        (MANIFEST.replace(b'"tiny"', b"[" * 70 + b"]" * 70), "nested"),
        (changed(kind="Adapter"), "kind is 'Adapter'"),
        (changed(kind="../x"), "kind is"),
        (changed(kind="\x1b[2J"), "kind is"),
        (changed(kind=1), "no manifest"),
        (changed(parents=["x"]), "malformed"),
        (changed(files=[FILE | {"size": -1}]), "malformed"),
        (changed(files=[FILE | {"sha256": "../../x"}]), "malformed"),
    ],
    ids=range(15),
)
def test_a_manifest_that_no_registry_would_have_written_is_refused(
    registry: Registry, manifest: bytes, why: str
) -> None:
    refused(registry, VerificationError, why, manifest, {DIGEST: DATA})
    assert not registry.root.exists()


@pytest.mark.parametrize(
    ("attachment", "why"),
    [
        (attached({"rsum": 1}) + b"\n", "spelt"),
        (attached({"rsum": 1}, manifest=b"{}"), "something else"),
        (attached({"rsum": 1}, kind="../../x"), "kind is"),
        (attached({"rsum": 1}, kind="Evaluation"), "kind is"),
        (attached({"rsum": 1}, kind="local-place"), "one machine only"),
        (canonical_json({"schema": 1, "kind": 1, "subject": sha256_bytes(MANIFEST), "document": {}}), "no kind"),
        (canonical_json({"schema": 1, "kind": "e", "subject": sha256_bytes(MANIFEST), "document": 1}), "no document"),
        (canonical_json({"schema": 2, "kind": "e", "subject": sha256_bytes(MANIFEST), "document": {}}), "newer"),
        (b"pickle", "no JSON"),
    ],
    ids=range(9),
)
def test_an_attachment_that_no_registry_would_have_written_is_refused(
    registry: Registry, attachment: bytes, why: str
) -> None:
    refused(registry, VerificationError, why, MANIFEST, {DIGEST: DATA}, [attached({"fine": 1}), attachment])
    assert not registry.root.exists()


def test_where_a_backbone_lies_is_what_stays_on_a_machine() -> None:
    from mwactl.workflow import place

    assert is_local(place.KIND)
    assert not is_local("evaluation")


def test_a_name_that_cannot_be_one_is_refused(registry: Registry) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        receive(registry, "../coco")


# -- trouble half-way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fsync", "chmod", "replace", "utime", "link", "mkdir"])
def test_a_disk_that_fills_up_shows_nothing_half_received(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    sent = (attached({"rsum": 1}), attached({"rsum": 2}))
    real, calls = getattr(os, call), 0

    def full_from(first: int) -> Callable[..., Any]:
        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= first:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return failing

    failures = 0
    for first in range(1, 60):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full_from(first))
            try:
                receive(registry, attachments=sent)
            except ResourceError as error:
                assert error.exit_code == 6
                failures += 1
            else:
                break
        tmp = registry.root / "tmp"
        assert not tmp.exists() or not list(tmp.iterdir())
        for entry in registry.entries():
            assert not isinstance(entry, BrokenEntry)
            assert registry.read(entry, "adapter.safetensors") == DATA
            assert documents(registry, entry) == [{"rsum": 1}, {"rsum": 2}], "seen whole, or not at all"
    assert failures
    entry = registry.resolve("coco")
    assert (entry.version, documents(registry, entry)) == (1, [{"rsum": 1}, {"rsum": 2}])
