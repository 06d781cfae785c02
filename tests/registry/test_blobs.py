from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mwactl.errors import VerificationError
from mwactl.files import sha256_bytes
from mwactl.registry.blobs import BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_blob_lies_under_its_digest_and_is_read_only(store: BlobStore, tmp_path: Path) -> None:
    digest, size = store.put(b"tensors")
    path = tmp_path / "blobs" / "sha256" / digest[:2] / digest
    assert (digest, size) == (sha256_bytes(b"tensors"), 7)
    assert path.read_bytes() == b"tensors"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_file_of_several_chunks_is_stored_whole(store: BlobStore, tmp_path: Path) -> None:
    content = os.urandom((5 << 20) // 2)
    source = tmp_path / "adapter.safetensors"
    source.write_bytes(content)
    digest, size = store.put(source)
    assert size == len(content)
    assert store.read(digest, where="it") == content


def test_a_rotten_blob_moves_to_quarantine_and_is_replaced(store: BlobStore, tmp_path: Path) -> None:
    digest, _ = store.put(b"tensors")
    damage(store.path(digest), b"\0" * 7)
    with pytest.raises(VerificationError, match="corrupt"):
        store.read(digest, where="it")
    store.put(b"tensors")
    assert store.read(digest, where="it") == b"tensors"
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert kept.name.startswith(digest)
    assert kept.read_bytes() == b"\0" * 7


def test_a_good_blob_is_young_again_after_the_next_put(store: BlobStore, tmp_path: Path) -> None:
    digest, _ = store.put(b"tensors")
    os.utime(store.path(digest), (0, 0))
    store.put(b"tensors")
    assert store.path(digest).stat().st_mtime > 1e9
    assert not (tmp_path / "quarantine").exists()


def test_a_missing_blob_and_a_wrong_size_are_found_without_reading(store: BlobStore) -> None:
    digest, size = store.put(b"tensors")
    store.check_size(digest, size, where="it")
    with pytest.raises(VerificationError, match=r"expected 8 bytes, found 7"):
        store.check_size(digest, 8, where="it")
    store.path(digest).unlink()
    with pytest.raises(VerificationError, match="missing"):
        store.check_size(digest, size, where="it")
    with pytest.raises(VerificationError, match="missing"):
        store.read(digest, where="it")


@pytest.mark.parametrize("digest", ["../../etc/passwd", "AB" * 32, "ab" * 31, ""])
def test_what_is_no_digest_never_becomes_a_path(store: BlobStore, digest: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        store.path(digest)


def test_a_verified_blob_is_where_it_is_said_to_be(store: BlobStore) -> None:
    digest, _ = store.put(b"tensors")
    assert store.verified(digest, where="it").read_bytes() == b"tensors"


@pytest.mark.parametrize("harm", [lambda path: damage(path, b"\0" * 7), lambda path: path.unlink()])
def test_a_blob_that_is_damaged_or_gone_has_no_verified_place(store: BlobStore, harm) -> None:
    digest, _ = store.put(b"tensors")
    harm(store.path(digest))
    with pytest.raises(VerificationError, match=r"it is (corrupt|missing)"):
        store.verified(digest, where="it")
