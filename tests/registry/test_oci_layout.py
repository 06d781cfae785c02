from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mwactl.errors import IncompatibleError, MwactlError, VerificationError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry import Entry, Registry, oci_layout
from mwactl.registry.attachments import attachment_bytes
from mwactl.registry.manifest import file_record, manifest_bytes
from mwactl.registry.oci_layout import (
    EMPTY_TYPE,
    IMAGE_TYPE,
    INDEX_TYPE,
    Parcel,
    blob_path,
    directory_files,
    entry_artifacts,
    layout_files,
    parse_descriptor,
    read_layout,
)
from mwactl.registry.receive import check_delivery
from mwactl.registry.staging import Source, chunks_of

Publish = Callable[..., Entry]
Change = Callable[[dict[str, Any]], None]
ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def contents(files: dict[str, Source]) -> dict[str, bytes]:
    return {path: b"".join(chunks_of(source)) for path, source in files.items()}


def layout_of(registry: Registry, *entries: Entry) -> dict[str, bytes]:
    artifacts = [artifact for entry in entries for artifact in entry_artifacts(registry.root, entry)]
    return contents(layout_files(artifacts))


@pytest.fixture
def entry(registry: Registry, publish: Publish) -> Entry:
    """An entry with two files, two evaluations, and a result that stays here."""
    files = {"adapter.safetensors": b"tensors", "onnx/image.onnx": b"graph"}
    found = registry.publish("coco", kind="adapter", files=files, facts={"method": {"name": "mwa"}}, verb="train")
    for document in ({"rsum": 1.0}, {"rsum": 2.0}):
        registry.attach(found, "evaluation", document)
    registry.attach(found, "local-place", {"path": "/home/ann/secret"})
    return found


# -- writing ---------------------------------------------------------------------------------------------------


def descriptors_in(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, dict):
        found = [document] if "digest" in document and "mediaType" in document else []
        return found + [inner for value in document.values() for inner in descriptors_in(value)]
    return [inner for value in document for inner in descriptors_in(value)] if isinstance(document, list) else []


MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


def test_the_layout_is_what_the_image_specification_asks_for(registry: Registry, entry: Entry) -> None:
    files = layout_of(registry, entry)
    assert json.loads(files.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files.pop("index.json"))
    assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    assert all(re.fullmatch(r"blobs/sha256/[0-9a-f]{64}", path) for path in files)
    assert all(path == f"blobs/sha256/{sha256_bytes(data)}" for path, data in files.items())
    referred = descriptors_in(index)
    for descriptor in index["manifests"]:
        image = json.loads(files[blob_path(descriptor["digest"].removeprefix("sha256:"))])
        assert (image["schemaVersion"], image["mediaType"]) == (2, "application/vnd.oci.image.manifest.v1+json")
        assert image["artifactType"] == descriptor["artifactType"]
        assert image["config"]["mediaType"] and image["layers"], "both are required"
        assert all(isinstance(value, str) for value in image["annotations"].values())
        referred += descriptors_in(image)
    for descriptor in referred:
        data = files[blob_path(descriptor["digest"].removeprefix("sha256:"))]
        assert descriptor["size"] == len(data)
        assert MEDIA_TYPE.fullmatch(descriptor["mediaType"])
    assert {blob_path(each["digest"].removeprefix("sha256:")) for each in referred} == files.keys()


def test_an_entry_is_an_image_whose_config_is_the_manifest_and_whose_layers_are_the_files(
    registry: Registry, entry: Entry
) -> None:
    files = layout_of(registry, entry)
    index = json.loads(files["index.json"])
    first = index["manifests"][0]
    assert first["annotations"] == {"org.opencontainers.image.ref.name": "coco-1"}
    assert first["artifactType"] == "application/vnd.mwactl.adapter.v1"
    image = json.loads(files[blob_path(first["digest"][7:])])
    assert image["config"]["digest"] == f"sha256:{entry.digest}", "the manifest, to the byte"
    assert image["config"]["mediaType"] == "application/vnd.mwactl.manifest.v1+json"
    assert image["annotations"] == {
        "org.opencontainers.image.title": "coco", "org.opencontainers.image.version": "1",
    }  # fmt: skip
    titles = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in image["layers"]}
    assert files[blob_path(titles["onnx/image.onnx"]["digest"][7:])] == b"graph"
    assert titles["onnx/image.onnx"]["mediaType"] == "application/vnd.onnx"


def test_an_attachment_is_an_image_with_the_entry_as_its_subject(registry: Registry, entry: Entry) -> None:
    files = layout_of(registry, entry)
    whole, *attached = json.loads(files["index.json"])["manifests"]
    assert [each["artifactType"] for each in attached] == 2 * ["application/vnd.mwactl.evaluation.v1"]
    for number, descriptor in enumerate(attached, 1):
        image = json.loads(files[blob_path(descriptor["digest"][7:])])
        assert image["subject"] == {key: whole[key] for key in ("mediaType", "digest", "size")}
        assert image["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
        assert files[blob_path(image["config"]["digest"][7:])] == b"{}"
        document = json.loads(files[blob_path(image["layers"][0]["digest"][7:])])
        assert document["document"] == {"rsum": float(number)}


def test_what_holds_on_one_machine_only_is_left_out(registry: Registry, entry: Entry) -> None:
    assert not [path for path, data in layout_of(registry, entry).items() if b"secret" in data or b"local-" in data]


def test_equal_entries_make_equal_layouts(registry: Registry, entry: Entry, memory_disk: Path) -> None:
    other = Registry(memory_disk / "other")
    parcel = read_layout(layout_of(registry, entry), where="it")[0]
    there = other.receive("coco", parcel.manifest, parcel.blobs, parcel.attachments, verb="pull")
    assert layout_of(other, there) == layout_of(registry, entry)


def test_an_entry_without_files_has_the_layer_that_stands_for_nothing(registry: Registry) -> None:
    entry = registry.publish("bare", kind="adapter", files={}, facts={}, verb="train")
    files = layout_of(registry, entry)
    image = json.loads(files[blob_path(json.loads(files["index.json"])["manifests"][0]["digest"][7:])])
    assert [layer["mediaType"] for layer in image["layers"]] == [EMPTY_TYPE]
    (parcel,) = read_layout(files, where="it")
    assert (parcel.digest, parcel.blobs) == (entry.digest, {})


def test_two_files_with_the_same_content_are_two_layers_and_one_blob(registry: Registry) -> None:
    files = {"a.json": b"{}", "b.json": b"{}", "c.json": b"[]"}  # one is also what an attachment's config is
    entry = registry.publish("twins", kind="adapter", files=files, facts={}, verb="train")
    registry.attach(entry, "evaluation", {})
    (parcel,) = read_layout(layout_of(registry, entry), where="it")
    assert len(parcel.blobs) == 2
    assert check_delivery(parcel.manifest, parcel.attachments, where="it").files == tuple(entry.manifest["files"])


def test_a_media_type_that_is_none_does_not_make_the_layout_invalid(registry: Registry) -> None:
    record = file_record("a.json", sha256_bytes(b"{}"), 2) | {"media_type": "no media type\n"}
    entry = registry.receive("x", manifest_bytes("adapter", [], [record], {}), {record["sha256"]: b"{}"}, verb="pull")
    image = json.loads(entry_artifacts(registry.root, entry)[0].manifest)
    assert image["layers"][0]["mediaType"] == "application/octet-stream"


def test_a_corrupt_manifest_or_attachment_is_not_sent(registry: Registry, entry: Entry) -> None:
    attached = registry.attachments(entry, "evaluation")[0]["digest"]
    for digest in (attached, entry.digest):
        path = registry._blobs.path(digest)
        path.chmod(0o644)
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(VerificationError, match="corrupt"):
            entry_artifacts(registry.root, entry)


def test_a_document_that_nobody_would_read_is_not_written(
    registry: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = entry_artifacts(registry.root, entry)
    monkeypatch.setattr(oci_layout, "_MAX_JSON_TOTAL_BYTES", 1000)
    with pytest.raises(MwactlError, match="too long to be sent"):
        layout_files(artifacts)
    monkeypatch.setattr(oci_layout, "MAX_JSON_BYTES", 100)
    with pytest.raises(MwactlError, match="too long to be sent"):
        entry_artifacts(registry.root, entry)


# -- reading ---------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_back(registry: Registry, entry: Entry, publish: Publish) -> None:
    other = publish("flickr", data=b"other", parents=(entry.digest,))
    first, second = read_layout(layout_of(registry, entry, other), where="it")
    assert (first.name, first.version, first.digest) == ("coco", 1, entry.digest)
    assert contents(dict(first.blobs)) == {sha256_bytes(data): data for data in (b"tensors", b"graph")}
    assert [json.loads(data)["document"] for data in first.attachments] == [{"rsum": 1.0}, {"rsum": 2.0}]
    assert (second.name, second.digest, second.attachments) == ("flickr", other.digest, ())


def test_a_directory_is_a_layout_too(registry: Registry, entry: Entry, tmp_path: Path) -> None:
    for path, data in layout_of(registry, entry).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    (parcel,) = read_layout(directory_files(tmp_path), where="it")
    assert registry.receive("copy", parcel.manifest, parcel.blobs, verb="pull").digest == entry.digest


def test_more_than_ten_attachments_keep_their_order(registry: Registry, entry: Entry) -> None:
    for number in range(3, 13):
        registry.attach(entry, "evaluation", {"rsum": float(number)})
    (parcel,) = read_layout(layout_of(registry, entry), where="it")
    assert [json.loads(data)["document"]["rsum"] for data in parcel.attachments] == list(range(1, 13))


def test_the_order_of_attachments_is_in_them_not_in_the_index(registry: Registry, entry: Entry) -> None:
    whole, *attached = entry_artifacts(registry.root, entry)
    (parcel,) = read_layout(contents(layout_files([*reversed(attached), whole])), where="it")
    assert [json.loads(data)["document"]["rsum"] for data in parcel.attachments] == [1.0, 2.0]


ENTRY, ATTACHED = "entry", "attached"


def tampered(changes: dict[str, Change]) -> dict[str, bytes]:
    """A layout with one entry and one attachment, made by hand; each document is changed before its digest is taken.

    So the digests are right, and what is wrong has to be seen by what it says.
    """
    files: dict[str, bytes] = {}

    def put(data: bytes) -> dict[str, Any]:
        files[f"blobs/sha256/{sha256_bytes(data)}"] = data
        return {"digest": f"sha256:{sha256_bytes(data)}", "size": len(data)}

    def said(key: str, document: dict[str, Any]) -> bytes:
        document = copy.deepcopy(document)
        changes.get(key, lambda _: None)(document)
        return canonical_json(document)

    def image(key: str, kind: str, config: dict[str, Any], layer: dict[str, Any], **more: Any) -> dict[str, Any]:
        document = {
            "schemaVersion": 2, "mediaType": IMAGE_TYPE, "artifactType": f"application/vnd.mwactl.{kind}.v1",
            "config": config, "layers": [layer], **more,
        }  # fmt: skip
        return put(said(key, document)) | {"mediaType": IMAGE_TYPE}

    def annotated(title: str, version: str) -> dict[str, Any]:
        return {"org.opencontainers.image.title": title, "org.opencontainers.image.version": version}

    record = file_record("a.json", sha256_bytes(b"[1]"), 3)
    manifest = said("manifest", json.loads(manifest_bytes("adapter", [], [record], {"method": {"name": "mwa"}})))
    layer = put(b"[1]") | {
        "mediaType": "application/json", "annotations": {"org.opencontainers.image.title": "a.json"},
    }  # fmt: skip
    config = put(manifest) | {"mediaType": "application/vnd.mwactl.manifest.v1+json"}
    whole = image(ENTRY, "adapter", config, layer, annotations=annotated("coco", "3"))
    document = json.loads(attachment_bytes(sha256_bytes(manifest), "evaluation", {"rsum": 1.0}))
    result = put(said("attachment", document)) | {"mediaType": "application/vnd.mwactl.attachment.v1+json"}
    nothing = put(b"{}") | {"mediaType": EMPTY_TYPE}
    referrer = image(
        ATTACHED, "evaluation", nothing, result, subject=dict(whole), annotations=annotated("evaluation", "1")
    )
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [whole, referrer]}
    files["index.json"] = said("index", index)
    files["oci-layout"] = said("layout", {"imageLayoutVersion": "1.0.0"})
    return files


def put(*path: str | int, value: Any) -> Change:
    """Set what lies at a path in a document."""

    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def drop(*path: str | int) -> Change:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def test_the_layout_made_by_hand_is_one() -> None:
    (parcel,) = read_layout(tampered({}), where="it")
    assert (parcel.name, parcel.version) == ("coco", 3)
    assert check_delivery(parcel.manifest, parcel.attachments, where="it").size_bytes > 0


TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"


@pytest.mark.parametrize(
    ("key", "change", "why"),
    [
        ("layout", drop("imageLayoutVersion"), "another version"),
        ("layout", put("imageLayoutVersion", value="2.0.0"), "another version"),
        ("index", put("schemaVersion", value=1), "another form"),
        ("index", drop("manifests"), "another form"),
        ("index", put("manifests", value=[]), "no adapter in it"),
        ("index", put("manifests", value=["x"]), "descriptor is missing"),
        ("index", put("manifests", 0, "digest", value="sha512:" + "ab" * 32), "malformed"),
        ("index", put("manifests", 0, "digest", value="sha256:../../x"), "malformed"),
        ("index", put("manifests", 0, "digest", value=1), "malformed"),
        ("index", put("manifests", 0, "digest", value="sha256:" + "AB" * 32), "malformed"),
        ("index", put("manifests", 0, "size", value=True), "malformed"),
        ("index", put("manifests", 0, "size", value=-1), "malformed"),
        ("index", put("manifests", 0, "size", value=1.5), "malformed"),
        ("index", put("manifests", 0, "size", value=10**15), "another size"),
        ("index", put("manifests", 0, "size", value=1), "another size"),
        ("index", put("manifests", 0, "annotations", value=[]), "annotations"),
        ("index", put("manifests", 0, "annotations", value={"a": 1}), "annotations"),
        ("index", put("manifests", 0, "mediaType", value=INDEX_TYPE), "something else"),
        ("index", put("manifests", 0, "digest", value="sha256:" + "ab" * 32), "blob is missing"),
        ("index", lambda index: index["manifests"].append(index["manifests"][0]), "twice"),
        ("index", drop("manifests", 0), "attached to nothing"),
        ("index", drop("manifests", 1), "nothing refers to it"),
        (ENTRY, put("schemaVersion", value=1), "another form"),
        (ENTRY, put("mediaType", value="application/vnd.docker.distribution.manifest.v2+json"), "another form"),
        (ENTRY, drop("layers"), "another form"),
        (ENTRY, put("layers", value=[]), "the layers are not the files"),
        (ENTRY, drop("artifactType"), "lacks artifactType"),
        (ENTRY, put("artifactType", value="application/vnd.mwactl.onnx.v1"), "its config differ"),
        (ENTRY, drop("annotations"), "annotations"),
        (ENTRY, put("annotations", TITLE, value="../coco"), "no name and version"),
        (ENTRY, put("annotations", TITLE, value="Coco"), "no name and version"),
        (ENTRY, put("annotations", VERSION, value="0"), "no name and version"),
        (ENTRY, put("annotations", VERSION, value=3), "no name and version"),
        (ENTRY, put("config", "mediaType", value="application/vnd.oci.image.config.v1+json"), "no adapter"),
        (ENTRY, put("layers", 0, "annotations", TITLE, value="b.json"), "the layers are not the files"),
        (ENTRY, put("layers", 0, "annotations", value={}), "the layers are not the files"),
        (ENTRY, put("layers", 0, "size", value=4), "the layers are not the files"),
        (ENTRY, lambda image: image["layers"].append(image["layers"][0]), "the layers are not the files"),
        (ENTRY, put("layers", 0, "mediaType", value=EMPTY_TYPE), "the layers are not the files"),
        (ENTRY, put("subject", value={}), "malformed"),
        (ATTACHED, drop("subject"), "no adapter"),
        (ATTACHED, put("subject", "digest", value="sha256:" + "ab" * 32), "attached to nothing"),
        (ATTACHED, put("layers", value=[]), "an attachment has another form"),
        (ATTACHED, put("layers", 0, "mediaType", value="text/plain"), "an attachment has another form"),
        (ATTACHED, put("artifactType", value="application/vnd.mwactl.training.v1"), "an attachment has another form"),
        (ATTACHED, put("config", "mediaType", value="application/json"), "no adapter"),
        ("manifest", put("files", 0, "size", value=4), "the layers are not the files"),
        ("manifest", put("files", 0, "path", value="b.json"), "the layers are not the files"),
        ("manifest", put("files", value=None), "the layers are not the files"),
        ("manifest", put("files", value=[1]), "the layers are not the files"),
        ("manifest", put("kind", value="onnx"), "its config differ"),
        ("manifest", drop("kind"), "its config differ"),
    ],
    ids=range(52),
)
def test_a_document_that_says_something_else_is_refused_although_its_digest_is_right(
    key: str, change: Change, why: str
) -> None:
    with pytest.raises((VerificationError, IncompatibleError), match=why):
        read_layout(tampered({key: change}), where="it")


def test_a_layout_of_a_newer_form_is_incompatible() -> None:
    with pytest.raises(IncompatibleError, match=r"'1\.1\.0'"):
        read_layout(tampered({"layout": put("imageLayoutVersion", value="1.1.0")}), where="it")


@pytest.mark.parametrize("missing", ["oci-layout", "index.json", "blobs/"])
def test_a_missing_file_is_named(missing: str) -> None:
    whole = tampered({})
    for path in (path for path in whole if path.startswith(missing)):
        with pytest.raises(VerificationError, match="missing"):
            read_layout({kept: data for kept, data in whole.items() if kept != path}, where="it")


@pytest.mark.parametrize("extra", ["README.md", "blobs/sha256/" + "ab" * 32, "blobs/sha256/x", "INDEX.JSON"])
def test_a_file_that_nothing_refers_to_is_refused(extra: str) -> None:
    with pytest.raises(VerificationError, match=f"{extra} is there"):
        read_layout(tampered({}) | {extra: b"x"}, where="it")


def test_a_document_whose_bytes_changed_is_refused() -> None:
    whole = tampered({})
    documents = [path for path, data in whole.items() if path.startswith("blobs/") and data != b"[1]"]
    assert len(documents) == 5, "two images, the manifest, the attachment, and nothing"
    for path in documents:
        changed = whole | {path: whole[path].replace(b"}", b" ", 1)}
        with pytest.raises(VerificationError, match="not what its digest says"):
            read_layout(changed, where="it")


def test_one_document_that_is_meant_a_thousand_times_is_not_read_a_thousand_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = tampered({})
    monkeypatch.setattr(oci_layout, "_MAX_JSON_TOTAL_BYTES", sum(map(len, whole.values())) - len(b"[1]"))
    read_layout(whole, where="it")

    def another(index: dict[str, Any]) -> None:
        for number in range(2):
            image = json.loads(whole[blob_path(index["manifests"][0]["digest"][7:])])
            image["annotations"][VERSION] = str(10 + number)
            data = canonical_json(image)
            more[blob_path(sha256_bytes(data))] = data
            descriptor = {"mediaType": IMAGE_TYPE, "digest": f"sha256:{sha256_bytes(data)}", "size": len(data)}
            index["manifests"].append(descriptor)

    more: dict[str, bytes] = {}
    with pytest.raises(VerificationError, match="too long"):
        read_layout(tampered({"index": another}) | more, where="it")


@pytest.mark.parametrize("said", [None, 1, "x", [], {}])
def test_what_is_no_descriptor_is_refused(said: object) -> None:
    with pytest.raises(VerificationError, match="descriptor"):
        parse_descriptor(said, where="it")


# -- whatever a document says -----------------------------------------------------------------------------------

leaves = [None, True, 0, -1, 2, 1e9, 10**30, "", "x", "../x", "sha256:", "sha256:" + "ab" * 32, "evaluation"]
values = st.recursive(
    st.sampled_from(leaves),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["files", "kind", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def spoil(document: Any, turns: list[int], value: Any, remove: bool) -> None:
    """Walk into a document, a turn a level, and replace or remove what is there."""
    while turns:
        keys = sorted(document) if isinstance(document, dict) else range(len(document))
        if not keys:
            return
        key = keys[turns[0] % len(keys)]
        inner, turns = document[key], turns[1:]
        if turns and isinstance(inner, dict | list):
            document = inner
        elif remove:
            del document[key]
            return
        else:
            document[key] = value
            return


@given(
    key=st.sampled_from(["layout", "index", ENTRY, ATTACHED, "manifest", "attachment"]),
    turns=st.lists(st.integers(0, 11), min_size=1, max_size=4),
    value=values,
    remove=st.booleans(),
)
@example(key="index", turns=[1, 0, 1], value="sha256:" + "ab" * 32, remove=False)
@settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=ALLOWED)
def test_whatever_a_document_says_it_is_taken_whole_or_refused(
    key: str, turns: list[int], value: Any, remove: bool
) -> None:
    files = tampered({key: lambda document: spoil(document, turns, value, remove)})
    try:
        parcels = read_layout(files, where="it")
        deliveries = [check_delivery(parcel.manifest, parcel.attachments, where="it") for parcel in parcels]
    except MwactlError as error:
        assert error.what and error.exit_code in (4, 5)
        return
    for parcel, delivery in zip(parcels, deliveries, strict=True):
        assert isinstance(parcel, Parcel)
        assert delivery.digest == parcel.digest == sha256_bytes(parcel.manifest)
        assert contents(dict(parcel.blobs)).keys() == {file["sha256"] for file in delivery.files}
