from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mwactl.errors import IncompatibleError, MwactlError, NotFoundError, UsageError, VerificationError
from mwactl.files import canonical_json
from mwactl.registry import Entry, Registry
from mwactl.registry.folder_entry import FolderEntry

Publish = Callable[..., Entry]


@pytest.fixture
def entry(publish: Publish) -> Entry:
    return publish(parents=("0" * 64,))


@pytest.fixture
def folder(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published entry as a folder, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/manifest.json").write_bytes(canonical_json(entry.manifest))
    (tmp_path / "theirs/adapter.safetensors").write_bytes(b"tensors")
    return tmp_path / "theirs"


def test_a_folder_is_read_like_an_entry_and_has_its_digest(registry: Registry, entry: Entry, folder: Path) -> None:
    for typed in ("./theirs", str(folder), "../" + folder.parent.name + "/theirs/"):
        found = registry.resolve(typed)
        assert isinstance(found, FolderEntry)
        assert (found.reference, found.digest, found.manifest) == (typed, entry.digest, entry.manifest)
        assert registry.read(found, "adapter.safetensors") == b"tensors"
        assert registry.attachments(found) == []
        assert registry.lineage(found)[1] == {"missing": "0" * 64}


def test_the_ancestors_of_a_folder_are_read_from_the_registry(
    registry: Registry, publish: Publish, folder: Path
) -> None:
    parent = publish("parent", data=b"parent's")
    found = registry.resolve("./theirs")
    ancestor = replace(found, digest=parent.digest, manifest=parent.manifest)
    assert registry.read(ancestor, "adapter.safetensors") == b"parent's"


def test_a_clone_of_a_pushed_repository_is_such_a_folder(registry: Registry, entry: Entry, folder: Path) -> None:
    (folder / "manifest.json").rename(folder / "mwactl-manifest.json")
    assert registry.resolve("./theirs").digest == entry.digest


def test_a_folder_needs_no_registry(tmp_path: Path, folder: Path) -> None:
    elsewhere = Registry(tmp_path / "none")
    assert elsewhere.read(elsewhere.resolve("./theirs"), "adapter.safetensors") == b"tensors"
    assert not elsewhere.root.exists()


def test_changed_bytes_of_the_same_length_are_found_when_they_are_read(registry: Registry, folder: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(b"Tensors")
    with pytest.raises(VerificationError, match=r"adapter\.safetensors is corrupt"):
        registry.read(registry.resolve("./theirs"), "adapter.safetensors")


def test_a_file_of_another_length_or_none_at_all_is_found_at_once(registry: Registry, folder: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(b"tensors!")
    with pytest.raises(VerificationError, match="expected 7 bytes, found 8"):
        registry.resolve("./theirs")
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(VerificationError, match="missing"):
        registry.resolve("./theirs")


def test_a_link_out_of_the_folder_is_not_followed(registry: Registry, folder: Path) -> None:
    (folder.parent / "other").write_bytes(b"tensors")
    (folder / "adapter.safetensors").unlink()
    (folder / "adapter.safetensors").symlink_to(folder.parent / "other")
    with pytest.raises(VerificationError, match="leads out of the folder") as error:
        registry.resolve("./theirs")
    assert "cp -L" in (error.value.fix or "")
    content = (folder / "adapter.safetensors").read_bytes()
    (folder / "adapter.safetensors").unlink()
    (folder / "adapter.safetensors").write_bytes(content)
    registry.resolve("./theirs")


def test_a_manifest_that_may_not_be_read_says_what_to_do(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(VerificationError, match="Permission denied") as error:
        registry.resolve("./theirs")
    assert (error.value.fix or "").startswith("make it readable")


@pytest.mark.parametrize(
    ("change", "error"),
    [({"schema": 2}, IncompatibleError), ({"files": None}, VerificationError), ({"kind": 3}, VerificationError)],
)
def test_what_is_no_manifest_is_refused(
    registry: Registry, entry: Entry, folder: Path, change: dict[str, object], error: type[MwactlError]
) -> None:
    (folder / "manifest.json").write_bytes(canonical_json(entry.manifest | change))
    with pytest.raises(error) as raised:
        registry.resolve("./theirs")
    assert raised.value.fix == (
        "pip install --upgrade mwactl" if "schema" in change else "copy or fetch the folder again"
    )


def test_a_pickle_in_a_folder_is_refused(registry: Registry, entry: Entry, folder: Path) -> None:
    files = [entry.manifest["files"][0] | {"path": "adapter.pt"}]
    (folder / "manifest.json").write_bytes(canonical_json(entry.manifest | {"files": files}))
    with pytest.raises(UsageError, match="pickle"):
        registry.resolve("./theirs")


def test_a_folder_without_a_manifest_and_no_folder_at_all_are_not_found(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"holds no adapter.*manifest\.json"):
        registry.resolve(str(tmp_path / "empty"))
    with pytest.raises(NotFoundError, match="there is no such folder"):
        registry.resolve(str(tmp_path / "absent"))


def test_nothing_is_attached_to_a_folder_and_it_has_no_name_to_give(registry: Registry, folder: Path) -> None:
    with pytest.raises(UsageError, match="mwactl registry add") as error:
        registry.attach(registry.resolve("./theirs"), "evaluation", {})
    assert error.value.fix == "mwactl registry add ./theirs"
    with pytest.raises(UsageError, match="no name here"):
        registry.locate("./theirs")


def test_the_verified_place_of_a_file_is_in_the_folder_and_nowhere_once_it_is_damaged(
    registry: Registry, folder: Path
) -> None:
    found = registry.resolve("./theirs")
    assert registry.verified_path(found, "adapter.safetensors").read_bytes() == b"tensors"
    (folder / "adapter.safetensors").write_bytes(b"\0ensors")
    with pytest.raises(VerificationError, match=r"adapter\.safetensors is corrupt"):
        registry.verified_path(found, "adapter.safetensors")
    with pytest.raises(NotFoundError, match="has no file"):
        registry.verified_path(found, "weights.safetensors")


def test_the_verified_place_of_an_entrys_file_is_its_blob(registry: Registry, entry: Entry) -> None:
    assert registry.verified_path(entry, "adapter.safetensors").read_bytes() == b"tensors"
