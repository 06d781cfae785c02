from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mwactl.errors import MwactlError, NotFoundError, ResourceError, UsageError, VerificationError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.progress import Silent
from mwactl.registry import Entry, Registry, bundle
from mwactl.registry.bundle import MAX_MEMBERS, Unpacked, pack, plan_packing, plan_unpacking, unpack
from mwactl.registry.tar import read_members

Publish = Callable[..., Entry]
HERE = Path(__file__).parent
ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def packed(registry: Registry, target: Path, *references: str, with_parents: bool = False) -> Path:
    packing = plan_packing(registry, references, with_parents=with_parents)
    digest = pack(packing, target, replace=False, reporter=Silent())
    assert digest == sha256_bytes(target.read_bytes())
    assert packing.size_bytes == target.stat().st_size
    return target


def unpacked(registry: Registry, file: Path, name: str | None = None) -> list[Unpacked]:
    return unpack(registry, plan_unpacking(registry, file, name=name, reporter=Silent()), reporter=Silent())


def documents(registry: Registry, entry: Entry) -> list[Any]:
    return [attachment["document"] for attachment in registry.attachments(entry)]


def rot(registry: Registry, digest: str) -> None:
    path = registry._blobs.path(digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1] + b"rot")


@pytest.fixture
def elsewhere(memory_disk: Path) -> Registry:
    """The registry of another machine."""
    return Registry(memory_disk / "elsewhere")


@pytest.fixture
def family(registry: Registry, publish: Publish) -> Entry:
    """base@1 → coco@1 → coco@2, with an evaluation and a training of the last, and where its backbone lies here."""
    base = publish("base", data=b"base")
    first = publish("coco", data=b"first" * 300, parents=(base.digest,))
    last = publish("coco", data=b"last" * 300, parents=(first.digest,), base={"fingerprint": "sha256:ab"})
    registry.attach(last, "evaluation", {"rsum": 500.0})
    registry.attach(last, "training", {"seconds": 3.5})
    registry.attach(last, "local-place", {"backbone": "/home/ann"})
    return last


# -- there and back --------------------------------------------------------------------------------------------


def test_what_was_packed_here_is_the_same_elsewhere(
    registry: Registry, elsewhere: Registry, family: Entry, tmp_path: Path
) -> None:
    file = packed(registry, tmp_path / "coco.tar", "coco", with_parents=True)
    found = unpacked(elsewhere, file)
    assert [each.entry.reference for each in found] == ["base@1", "coco@1", "coco@2"]
    assert not any(each.was_here for each in found)
    here = elsewhere.resolve("coco")
    assert (here.digest, here.manifest) == (family.digest, family.manifest)
    assert here.manifest["base"] == {"fingerprint": "sha256:ab"}, "the fingerprint comes along, no weights do"
    assert elsewhere.read(here, "adapter.safetensors") == b"last" * 300
    assert documents(elsewhere, here) == [{"rsum": 500.0}, {"seconds": 3.5}]
    assert elsewhere.lineage(here) == registry.lineage(family)
    assert elsewhere.resolve(None).digest == family.digest, "the newest is what was asked for"
    assert elsewhere.history("coco")[0]["verb"] == "unpack"


def test_equal_entries_make_equal_bundles_wherever_and_however_they_are_packed(
    registry: Registry, elsewhere: Registry, family: Entry, tmp_path: Path
) -> None:
    one = packed(registry, tmp_path / "one.tar", "coco", with_parents=True)
    unpacked(elsewhere, one)
    again = packed(elsewhere, tmp_path / "again.tar", f"coco@sha256:{family.digest[:12]}", with_parents=True)
    both = packed(registry, tmp_path / "both.tar", "coco@2", "coco@1", "coco@2", with_parents=True)
    assert one.read_bytes() == again.read_bytes() == both.read_bytes()


def test_without_parents_only_what_was_asked_for_is_packed(
    registry: Registry, elsewhere: Registry, family: Entry, tmp_path: Path
) -> None:
    (found,) = unpacked(elsewhere, packed(registry, tmp_path / "coco.tar", "coco"))
    assert (found.entry.reference, found.entry.digest) == ("coco@1", family.digest), "numbers are given anew"
    assert elsewhere.lineage(found.entry)[1:] == [{"missing": family.manifest["parents"][0]}]


def test_unpacking_it_again_publishes_nothing(
    registry: Registry, elsewhere: Registry, family: Entry, tmp_path: Path
) -> None:
    file = packed(registry, tmp_path / "coco.tar", "coco", with_parents=True)
    first = [each.entry for each in unpacked(elsewhere, file)]
    plan = plan_unpacking(elsewhere, file, name=None, reporter=Silent())
    assert plan.here == ("base@1", "coco@1", "coco@2")
    again = unpacked(elsewhere, file)
    assert [each.entry for each in again] == first
    assert all(each.was_here for each in again)


def test_where_it_came_from_it_is_known_and_what_has_rotted_there_heals(
    registry: Registry, family: Entry, tmp_path: Path
) -> None:
    file = packed(registry, tmp_path / "coco.tar", "coco")
    rot(registry, family.manifest["files"][0]["sha256"])
    (found,) = unpacked(registry, file)
    assert found.was_here and found.entry == family
    assert registry.read(family, "adapter.safetensors") == b"last" * 300
    assert len(registry.attachments(family)) == 3


def test_another_name_is_given_to_the_adapter_and_not_to_its_ancestors(
    registry: Registry, elsewhere: Registry, family: Entry, tmp_path: Path
) -> None:
    file = packed(registry, tmp_path / "coco.tar", "coco", with_parents=True)
    found = unpacked(elsewhere, file, "Ann")
    assert [each.entry.reference for each in found] == ["base@1", "ann@1", "ann@2"]
    with pytest.raises(UsageError, match="cannot be a name"):
        unpacked(elsewhere, file, "../x")


def test_one_name_does_not_fit_two_adapters(
    registry: Registry, elsewhere: Registry, publish: Publish, tmp_path: Path
) -> None:
    publish("one", data=b"1")
    publish("two", data=b"2")
    with pytest.raises(UsageError, match=r"several adapters.*one, two"):
        unpacked(elsewhere, packed(registry, tmp_path / "both.tar", "one", "two"), "ann")
    assert not elsewhere.root.exists()


def test_an_ancestor_that_is_gone_is_named_and_one_that_is_corrupt_stops_the_packing(
    registry: Registry, publish: Publish
) -> None:
    gone = "ab" * 32
    parent = publish("parent", data=b"old", parents=(gone,))
    publish("child", data=b"new", parents=(parent.digest,))
    packing = plan_packing(registry, ["child"], with_parents=True)
    assert [entry.reference for entry in packing.entries] == ["parent@1", "child@1"]
    assert packing.missing == (gone,)
    rot(registry, parent.digest)
    with pytest.raises(VerificationError, match="corrupt"):
        plan_packing(registry, ["child"], with_parents=True)
    assert len(plan_packing(registry, ["child"], with_parents=False).entries) == 1


def test_an_ancestor_of_two_is_packed_or_missed_once_and_under_the_name_of_its_child(
    registry: Registry, publish: Publish
) -> None:
    gone = "ab" * 32
    for name in ("alpha", "coco"):
        parent = publish(name, data=b"old", parents=(gone,))
    publish("coco", data=b"new", parents=(parent.digest,))
    publish("coco", data=b"other", parents=(parent.digest, gone))
    packing = plan_packing(registry, ["coco@2", "coco@3"], with_parents=True)
    assert [entry.reference for entry in packing.entries] == ["coco@1", "coco@2", "coco@3"]
    assert packing.missing == (gone,)
    packing = plan_packing(registry, ["alpha", "coco@2"], with_parents=True)
    assert [entry.reference for entry in packing.entries] == ["alpha@1", "coco@2"], "the same content once"


# -- packing ---------------------------------------------------------------------------------------------------


def test_the_bundle_is_a_plain_tar_that_may_be_read_by_others(
    registry: Registry, family: Entry, tmp_path: Path
) -> None:
    file = packed(registry, tmp_path / "deep" / "er" / "coco.tar", "coco")
    assert stat.S_IMODE(file.stat().st_mode) & 0o400
    with tarfile.open(file, "r:") as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    assert names == sorted(names)
    assert len(index["manifests"]) == 3


def test_rot_is_noticed_while_packing_and_leaves_no_file(registry: Registry, family: Entry, tmp_path: Path) -> None:
    packing = plan_packing(registry, ["coco"], with_parents=False)
    path = registry._blobs.path(family.manifest["files"][0]["sha256"])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(VerificationError, match="not what its digest says"):
        pack(packing, tmp_path / "coco.tar", replace=False, reporter=Silent())
    path.unlink()
    with pytest.raises(MwactlError, match="cannot be read"):
        pack(packing, tmp_path / "coco.tar", replace=False, reporter=Silent())
    assert list(tmp_path.glob("**/*.tar*")) == []


def test_a_disk_that_cannot_be_read_is_named_and_leaves_no_file(
    registry: Registry, family: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = plan_packing(registry, ["coco"], with_parents=False)

    def broken(_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(bundle, "chunks_of", broken)
    target = tmp_path / "out" / "coco.tar"
    files = {path: file for path, file in packing.files.items() if isinstance(file[1], Path)}
    with pytest.raises(VerificationError, match="cannot be read"):
        pack(replace(packing, files=files), target, replace=False, reporter=Silent())
    assert list(target.parent.iterdir()) == []


def test_a_file_is_not_written_over_unless_asked(registry: Registry, family: Entry, tmp_path: Path) -> None:
    packing = plan_packing(registry, ["coco"], with_parents=False)
    target = tmp_path / "coco.tar"
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match="--force"):
        pack(packing, target, replace=False, reporter=Silent())
    assert target.read_bytes() == b"precious"
    pack(packing, target, replace=True, reporter=Silent())
    assert tarfile.is_tarfile(target)
    for nowhere in (tmp_path, target / "below.tar"):
        with pytest.raises(UsageError):
            pack(packing, nowhere, replace=True, reporter=Silent())


def test_what_is_not_in_the_registry_cannot_be_packed(registry: Registry, family: Entry) -> None:
    with pytest.raises(NotFoundError):
        plan_packing(registry, ["nothing"], with_parents=False)
    with pytest.raises(NotFoundError):
        plan_packing(registry, ["coco", "coco@9"], with_parents=False)


def test_a_folder_is_no_entry_to_pack(registry: Registry, family: Entry, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(registry._blobs.read(family.digest, where="it"))
    (folder / "adapter.safetensors").write_bytes(registry.read(family, "adapter.safetensors"))
    with pytest.raises(UsageError, match="is a folder"):
        plan_packing(registry, [str(folder)], with_parents=False)


def test_more_than_anyone_would_unpack_is_not_packed(
    registry: Registry, family: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MAX_MEMBERS", 5)
    with pytest.raises(MwactlError, match="too much for one bundle"):
        plan_packing(registry, ["coco"], with_parents=True)


def test_a_full_disk_leaves_no_bundle_and_says_where_to_put_it(
    registry: Registry, family: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = plan_packing(registry, ["coco"], with_parents=False)
    (tmp_path / "out").mkdir()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("fsync", "replace", "open"):
        with monkeypatch.context() as patch, pytest.raises(ResourceError, match="-o"):
            patch.setattr(os, call, full)
            pack(packing, tmp_path / "out" / "coco.tar", replace=False, reporter=Silent())
        assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match=r"not enough space.*0\.0 MB are free"):
        pack(packing, tmp_path / "out" / "coco.tar", replace=False, reporter=Silent())


# -- unpacking -------------------------------------------------------------------------------------------------


@pytest.fixture
def members(registry: Registry, family: Entry, tmp_path: Path) -> dict[str, bytes]:
    """What a bundle of coco@2 holds, by name."""
    file = packed(registry, tmp_path / "good.tar", "coco")
    return {name: b"".join(found.chunks()) for name, found in read_members(file, max_members=MAX_MEMBERS).items()}


def tar_of(path: Path, members: dict[str, bytes], *more: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A bundle by Python's own writer, with further members of whatever kind."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info, data in more:
            tar.addfile(info, io.BytesIO(data))
    return path


def refused(elsewhere: Registry, file: Path, why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        unpacked(elsewhere, file)
    assert not elsewhere.root.exists(), "the registry was not touched"


def test_a_bundle_that_another_tool_packed_again_is_taken(
    elsewhere: Registry, family: Entry, members: dict[str, bytes], tmp_path: Path
) -> None:
    directories = [tarfile.TarInfo(name) for name in (".", "./blobs", "./blobs/sha256/")]
    for info in directories:
        info.type = tarfile.DIRTYPE
    dotted = {f"./{name}": data for name, data in reversed(members.items())}
    file = tar_of(tmp_path / "again.tar", dotted, *((info, b"") for info in directories))
    (found,) = unpacked(elsewhere, file)
    assert found.entry.digest == family.digest


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../escaped", tarfile.REGTYPE, ""),
        ("/tmp/escaped", tarfile.REGTYPE, ""),
        ("blobs/../../escaped", tarfile.REGTYPE, ""),
        ("blobs/sha256/" + "ab" * 32, tarfile.SYMTYPE, "/etc/passwd"),
        ("blobs/sha256/" + "ab" * 32, tarfile.LNKTYPE, "index.json"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("unknown", b"V", ""),
        ("index.json", tarfile.REGTYPE, ""),
        ("./index.json", tarfile.REGTYPE, ""),
        ("Index.JSON", tarfile.REGTYPE, ""),
        ("README", tarfile.REGTYPE, ""),
        ("blobs/sha256/" + "ab" * 32, tarfile.REGTYPE, ""),
        ("blobs/sha256/" + "AB" * 32, tarfile.REGTYPE, ""),
        ("elsewhere", tarfile.DIRTYPE, ""),
    ],
)
def test_a_member_that_does_not_belong_there_spoils_the_bundle(
    elsewhere: Registry, members: dict[str, bytes], tmp_path: Path, name: str, kind: bytes, link: str
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    refused(elsewhere, tar_of(tmp_path / "bad.tar", members, (info, b"")), ".")
    assert not list(tmp_path.parent.glob("**/escaped")) and not Path("/tmp/escaped").exists()


def test_every_member_is_needed_and_every_byte_of_it_counts(
    elsewhere: Registry, members: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in members.items():
        without = {other: content for other, content in members.items() if other != name}
        refused(elsewhere, tar_of(tmp_path / "bad.tar", without), "missing")
        for changed in (data[:-1], data + b"x", bytes([data[0] ^ 1]) + data[1:]):
            refused(elsewhere, tar_of(tmp_path / "bad.tar", members | {name: changed}), ".")


def test_a_bundle_that_needs_more_than_the_disk_has_is_refused_first(
    elsewhere: Registry, registry: Registry, family: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed(registry, tmp_path / "good.tar", "coco", with_parents=True)
    # Enough for each entry and its reserve, but not for all three.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64 * 2**20 + 3000))
    with pytest.raises(ResourceError, match="nothing was written"):
        unpacked(elsewhere, file)
    assert not elsewhere.root.exists()


def test_a_pickle_in_a_bundle_is_refused(registry: Registry, elsewhere: Registry, tmp_path: Path) -> None:
    # The registry itself would not publish one: the bundle is made of one that it would, and both its names changed.
    registry.publish("bad", kind="adapter", files={"model.json": b"[]"}, facts={}, verb="train")
    file = packed(registry, tmp_path / "good.tar", "bad")
    good = {name: b"".join(found.chunks()) for name, found in read_members(file, max_members=9).items()}
    index = json.loads(good["index.json"])
    image_name = "blobs/sha256/" + index["manifests"][0]["digest"][7:]
    image = json.loads(good.pop(image_name))
    manifest = good.pop("blobs/sha256/" + image["config"]["digest"][7:]).replace(b"model.json", b"model.pt")
    image["config"] |= {"digest": f"sha256:{sha256_bytes(manifest)}", "size": len(manifest)}
    image["layers"][0]["annotations"]["org.opencontainers.image.title"] = "model.pt"
    changed = canonical_json(image)
    index["manifests"][0] |= {"digest": f"sha256:{sha256_bytes(changed)}", "size": len(changed)}
    good |= {f"blobs/sha256/{sha256_bytes(data)}": data for data in (manifest, changed)}
    refused(elsewhere, tar_of(tmp_path / "bad.tar", good | {"index.json": canonical_json(index)}), "pickle")


def test_a_bundle_with_one_bad_entry_brings_none(
    registry: Registry, elsewhere: Registry, family: Entry, tmp_path: Path
) -> None:
    file = packed(registry, tmp_path / "good.tar", "coco", with_parents=True)
    data = file.read_bytes()
    assert data.count(b"last" * 300) == 1
    file.write_bytes(data.replace(b"last" * 300, b"lost" * 300))
    refused(elsewhere, file, "not what its digest says")


def test_a_bundle_that_changes_after_it_was_verified_is_noticed(
    registry: Registry, elsewhere: Registry, family: Entry, tmp_path: Path
) -> None:
    file = packed(registry, tmp_path / "good.tar", "coco")
    plan = plan_unpacking(elsewhere, file, name=None, reporter=Silent())
    file.write_bytes(file.read_bytes().replace(b"last" * 300, b"lost" * 300))
    with pytest.raises(VerificationError, match="not what its digest says"):
        unpack(elsewhere, plan, reporter=Silent())
    assert elsewhere.names() == []


def test_what_is_no_bundle_is_told_apart(elsewhere: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        unpacked(elsewhere, tmp_path / "nothing.tar")
    with pytest.raises(UsageError, match="is a file"):
        unpacked(elsewhere, tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    refused(elsewhere, tmp_path / "empty", "cut off")
    refused(elsewhere, tar_of(tmp_path / "other.tar", {"README": b"hello"}), "the layout file is missing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_bundle_that_may_not_be_read_is_named(elsewhere: Registry, tmp_path: Path) -> None:
    file = tar_of(tmp_path / "secret.tar", {})
    file.chmod(0)
    with pytest.raises(MwactlError, match="cannot be read"):
        unpacked(elsewhere, file)


def test_an_error_while_the_bundle_is_read_is_named(
    registry: Registry, elsewhere: Registry, family: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed(registry, tmp_path / "good.tar", "coco")

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(bundle, "read_members", broken)
    with pytest.raises(MwactlError, match="cannot be read"):
        unpacked(elsewhere, file)


# -- kills and mutations ---------------------------------------------------------------------------------------


def drive(*arguments: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, HERE / "bundle_crash_driver.py", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize(("scenario", "fewest_calls"), [("pack", 80), ("first", 100), ("next", 150)])
def test_a_kill_at_any_system_call_leaves_nothing_half_packed_or_unpacked(
    memory_disk: Path, scenario: str, fewest_calls: int
) -> None:
    report = drive(memory_disk, scenario)
    assert report["failures"] == []
    assert report["calls"] >= fewest_calls
    assert report["kills"] > report["calls"] or scenario == "pack", "within the writes, too"


def test_the_kill_test_finds_a_bundle_written_in_place(memory_disk: Path) -> None:
    assert any("half-made" in failure for failure in drive(memory_disk, "pack", "sabotage")["failures"])


changes = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "zero", "swap", "forge", "forge"]),
        st.integers(0, 10**6),
        st.sampled_from([1, 3, 8, 100, 512, 1024]),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=3,
)


def forged(data: bytes, place: int, byte: int) -> bytes:
    """One byte of a block is another, and where the block is a header, its checksum is right again."""
    at = place % len(data) // 512 * 512
    header = bytearray(data[at : at + 512])
    header[place // 512 % len(header)] = byte
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * ord(" ") + sum(header[156:]))
    return data[:at] + bytes(header) + data[at + 512 :]


def mutated(data: bytes, plan: list[tuple[str, int, int, int]]) -> bytes:
    for what, place, length, byte in plan:
        if what == "forge" and data:
            data = forged(data, place, byte)
            continue
        at = place % max(len(data), 1)
        if length >= 512:  # tars are made of blocks: hit whole ones too
            at = at // 512 * 512
        piece = data[at : at + length]
        middle = {
            "flip": bytes([piece[0] ^ (byte or 1)]) + piece[1:] if piece else b"",
            "cut": b"",
            "insert": bytes([byte]) * length + piece,
            "repeat": piece + piece,
            "zero": bytes(len(piece)),
            "swap": piece[::-1],
            "forge": b"",
        }[what]
        data = data[:at] + middle + data[at + length :]
    return data


def everything_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture(scope="module")
def good_bundle() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        registry = Registry(Path(directory) / "registry")
        files = {"adapter.safetensors": b"tensors" * 20, "recipe.yaml": b"epochs: 1"}
        entry = registry.publish("coco", kind="adapter", files=files, facts={"base": {"x": 1}}, verb="train")
        registry.attach(entry, "evaluation", {"rsum": 500.0})
        return packed(registry, Path(directory) / "good.tar", "coco").read_bytes()


@given(plan=changes)
@settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=ALLOWED)
def test_a_mutated_bundle_is_refused_or_brings_exactly_what_was_packed(
    good_bundle: bytes, memory_disk: Path, plan: list[tuple[str, int, int, int]]
) -> None:
    directory = memory_disk / "fuzz"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "good.tar").write_bytes(good_bundle)
    (directory / "bad.tar").write_bytes(mutated(good_bundle, plan))
    registry = Registry(directory / "registry")
    try:
        found = unpacked(registry, directory / "bad.tar")
    except MwactlError as error:
        assert error.exit_code in (4, 5, 6)
        assert everything_below(directory) == {"good.tar", "bad.tar"}, "nothing was written anywhere"
        return
    (good,) = plan_unpacking(registry, directory / "good.tar", name=None, reporter=Silent()).parcels
    assert [each.entry.digest for each in found] == [good[1].digest]
    assert len(registry.attachments(found[0].entry)) == 1
    assert all(path in ("good.tar", "bad.tar") or path.startswith("registry") for path in everything_below(directory))
