from __future__ import annotations

import json
from typing import Any

import pytest

from mwactl.errors import IncompatibleError, UsageError, VerificationError
from mwactl.registry.manifest import SCHEMA, check_publishable, file_record, manifest_bytes, parse_manifest

DIGEST = "ab" * 32
FILES = [file_record("b.json", DIGEST, 2), file_record("adapter.safetensors", DIGEST, 1)]


def test_the_order_in_which_things_are_said_does_not_change_the_bytes() -> None:
    first = manifest_bytes("adapter", [DIGEST], FILES, {"base": {"a": 1, "b": 2}, "train": None})
    second = manifest_bytes("adapter", [DIGEST], FILES[::-1], {"train": None, "base": {"b": 2, "a": 1}})
    assert first == second
    assert b" " not in first and b"\n" not in first


def test_a_manifest_reads_back_as_it_was_said() -> None:
    manifest = parse_manifest(manifest_bytes("adapter", [DIGEST], FILES, {"method": {"name": "mwa"}}), where="it")
    assert manifest == {
        "schema": SCHEMA,
        "kind": "adapter",
        "parents": [DIGEST],
        "files": [
            {"path": "adapter.safetensors", "media_type": "application/vnd.safetensors", "size": 1, "sha256": DIGEST},
            {"path": "b.json", "media_type": "application/json", "size": 2, "sha256": DIGEST},
        ],
        "method": {"name": "mwa"},
    }


@pytest.mark.parametrize("key", ["schema", "kind", "parents", "files"])
def test_a_fact_cannot_replace_what_the_manifest_says_itself(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        manifest_bytes("adapter", [], FILES, {key: 1})


def test_a_parent_is_a_digest_and_a_number_is_a_number() -> None:
    with pytest.raises(ValueError, match="coco@3"):
        manifest_bytes("adapter", ["coco@3"], FILES, {})
    with pytest.raises(ValueError, match="JSON"):
        manifest_bytes("adapter", [], FILES, {"loss": float("nan")})


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a//b", "./a", "a\\b", "a\0", "C:a", "a/", "a\nb"])
def test_a_path_that_leads_out_of_the_entry_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="path of a file"):
        check_publishable(path)


@pytest.mark.parametrize("path", ["adapter.pt", "model.PTH", "a/weights.bin"])
def test_a_pickle_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="pickle"):
        check_publishable(path)


@pytest.mark.parametrize("path", ["adapter.safetensors", "onnx/image.onnx", "..a", "Ü.md"])
def test_an_ordinary_path_is_taken(path: str) -> None:
    check_publishable(path)


def test_a_newer_schema_is_incompatible_not_corrupt() -> None:
    with pytest.raises(IncompatibleError, match="newer"):
        parse_manifest(b'{"schema": 2}', where="it")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 1},
        {"parents": None},
        {"parents": ["x"]},
        {"files": None},
        {"files": ["x"]},
        {"files": [FILES[0] | {"path": "../x"}]},
        {"files": [FILES[0] | {"sha256": "../x"}]},
        {"files": [FILES[0] | {"size": -1}]},
        {"files": [FILES[0] | {"size": "1"}]},
        {"schema": None},
    ],
)
def test_a_malformed_manifest_is_refused(change: dict[str, Any]) -> None:
    good = json.loads(manifest_bytes("adapter", [DIGEST], FILES, {}))
    with pytest.raises(VerificationError) as error:
        parse_manifest(json.dumps(good | change).encode(), where="it")
    assert "published again" in (error.value.fix or "")


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"{"])
def test_what_is_no_json_object_is_no_manifest(data: bytes) -> None:
    with pytest.raises(VerificationError, match="it") as error:
        parse_manifest(data, where="it", fix="do this")
    assert error.value.fix == "do this"
