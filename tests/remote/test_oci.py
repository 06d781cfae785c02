"""Against a real registry, the one that Debian packages."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError, NotFoundError, UsageError, VerificationError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.progress import Silent
from mwactl.registry import Entry, Registry
from mwactl.registry.oci_layout import EMPTY_TYPE, IMAGE_TYPE, Descriptor
from mwactl.remote import open_remote, plan_pull, plan_push, pull, push
from mwactl.remote.address import OciAddress
from mwactl.remote.login import config_path
from mwactl.remote.oci_api import OciRepository

EMPTY = f"sha256:{sha256_bytes(b'{}')}"


@pytest.fixture
def place(oci_host: str) -> str:
    """An address that no other test uses."""
    return f"oci://{oci_host}/tests/{uuid.uuid4().hex}:v1"


def fetch(registry: Registry, place: str, name: str | None = None) -> Entry:
    remote = open_remote(place)
    return pull(registry, remote, plan_pull(registry, remote, name))


def attached(registry: Registry, entry: Entry) -> list[Any]:
    return [each["document"] for each in registry.attachments(entry)]


def repository(place: str) -> OciRepository:
    host, _, rest = place.removeprefix("oci://").partition("/")
    return OciRepository(OciAddress(host, rest.partition(":")[0], "v1"), plain_http=False, reporter=Silent())


def test_what_is_pulled_is_what_was_pushed(place: str, registry: Registry, other: Registry, entry: Entry) -> None:
    sent = push(registry, entry, open_remote(place))
    for address in (place, sent.pinned):
        found = fetch(other, address)
        assert (found.reference, found.digest) == ("coco-mwa@1", entry.digest)
        assert other.read(found, "adapter.safetensors") == registry.read(entry, "adapter.safetensors")
        assert attached(other, found) == attached(registry, entry) == [{"rsum": 500.0}, {"rsum": 510.5}]


def test_another_name_can_be_given(place: str, registry: Registry, other: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(place))
    assert fetch(other, place, "Theirs").reference == "theirs@1"
    with pytest.raises(UsageError, match="cannot be a name"):
        fetch(other, place, "../theirs")


def test_a_dry_run_sends_nothing_and_the_second_push_sends_nothing_either(
    place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    assert not any(item.there for item in plan_push(registry, entry, open_remote(place)))
    with pytest.raises(NotFoundError, match="nothing at this address"):
        fetch(other, place)
    assert not any(item.there for item in push(registry, entry, open_remote(place)).items)
    assert all(item.there for item in push(registry, entry, open_remote(place)).items)


def test_a_result_that_came_later_is_sent_alone_and_pulled_by_those_who_have_the_rest(
    place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    push(registry, entry, open_remote(place))
    fetch(other, place)
    registry.attach(entry, "evaluation", {"rsum": 520.0})
    sent = push(registry, entry, open_remote(place))
    assert {item.what for item in sent.items if not item.there} == {"attachment", "image manifest of an attachment"}
    found = fetch(other, place)
    assert found.version == 1
    assert attached(other, found) == [{"rsum": 500.0}, {"rsum": 510.5}, {"rsum": 520.0}]


def test_results_that_others_pushed_and_what_other_tools_attached_stay(
    place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    subject = push(registry, entry, open_remote(place)).pinned.rpartition(":")[2]
    api = repository(place)
    nothing = {"mediaType": EMPTY_TYPE, "digest": EMPTY, "size": 2}
    signature = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_TYPE,
            "artifactType": "application/sig",
            "config": nothing,
            "layers": [],
        }
    )
    api.put_manifest(signature, f"sha256:{sha256_bytes(signature)}")
    foreign = Descriptor(IMAGE_TYPE, sha256_bytes(signature), len(signature), "application/sig")
    api.list_referrers(subject, [foreign])
    theirs = fetch(other, place)
    other.attach(theirs, "evaluation", {"rsum": 1.0})
    push(other, theirs, open_remote(place))
    push(registry, entry, open_remote(place))
    assert foreign.as_json() in api.referrers(subject)
    assert attached(registry, fetch(registry, place)) == [{"rsum": 500.0}, {"rsum": 510.5}, {"rsum": 1.0}]


def test_the_same_content_under_another_name_keeps_the_results_of_others(
    place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    pinned = push(registry, entry, open_remote(place)).pinned
    theirs = fetch(other, place, "theirs")
    other.attach(theirs, "evaluation", {"rsum": 520.0})
    assert push(other, theirs, open_remote(place)).pinned == pinned
    found = fetch(registry, place)
    assert found.reference == "coco-mwa@1"
    assert attached(registry, found) == [{"rsum": 500.0}, {"rsum": 510.5}, {"rsum": 520.0}]


def test_a_tag_moves_and_a_digest_does_not(
    place: str, registry: Registry, other: Registry, publish: Callable[..., Entry]
) -> None:
    first, second = publish(registry), publish(registry, size=2000)
    pinned = push(registry, first, open_remote(place)).pinned
    push(registry, second, open_remote(place))
    assert fetch(other, pinned, "first").digest == first.digest
    assert fetch(other, place).digest == second.digest


def test_nothing_is_pushed_to_a_digest(oci_host: str, registry: Registry, entry: Entry) -> None:
    with pytest.raises(UsageError, match=r"nothing can be pushed to a digest.*type a tag"):
        push(registry, entry, open_remote(f"oci://{oci_host}/tests/x@sha256:{'0' * 64}"))


def test_an_entry_without_files_and_an_empty_file_travel_too(place: str, registry: Registry, other: Registry) -> None:
    for number, files in enumerate(({}, {"empty.txt": b""}, {"a folder/größe #1 100%?.txt": b"x"})):
        entry = registry.publish(f"e{number}", kind="adapter", files=files, facts={}, verb="train")
        push(registry, entry, open_remote(place))
        assert fetch(other, place).digest == entry.digest


def test_common_tools_see_the_files_by_their_titles(place: str, registry: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(place))
    data = repository(place).manifest("v1")
    assert data is not None
    image = json.loads(data)
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in image["layers"]]
    assert titles == ["adapter.safetensors", "recipe.yaml"]
    assert image["artifactType"] == "application/vnd.mwactl.adapter.v1"
    assert image["config"]["digest"] == f"sha256:{entry.digest}"


def test_an_image_of_something_else_is_refused(place: str, other: Registry) -> None:
    api = repository(place)
    api.put_blob(sha256_bytes(b"{}"), b"{}", Silent().progress("", 0))
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": f"sha256:{sha256_bytes(b'{}')}",
        "size": 2,
    }
    api.put_manifest(
        canonical_json({"schemaVersion": 2, "mediaType": IMAGE_TYPE, "config": config, "layers": []}), "v1"
    )
    with pytest.raises(VerificationError, match="no adapter"):
        fetch(other, place)


def test_an_attachment_is_no_adapter(place: str, registry: Registry, other: Registry, entry: Entry) -> None:
    subject = push(registry, entry, open_remote(place)).pinned.rpartition(":")[2]
    attachment = repository(place).referrers(subject)[0]["digest"]
    with pytest.raises(VerificationError, match="attached to an adapter"):
        fetch(other, f"{place.rpartition(':')[0]}@{attachment}")


def test_wrong_bytes_are_not_taken_by_the_registry(place: str, registry: Registry) -> None:
    with pytest.raises(MwactlError, match=r"HTTP 400"):
        repository(place).put_blob("0" * 64, b"something else", Silent().progress("", 0))


def test_a_registry_with_a_password_asks_for_a_login_and_takes_it(
    closed_oci_host: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    place = f"oci://{closed_oci_host}/coco:v1"
    with pytest.raises(MwactlError, match=rf"this needs a login.*docker login {closed_oci_host}"):
        push(registry, entry, open_remote(place))
    for password, works in (("reader:wrong", False), ("reader:secret", True)):
        config_path().parent.mkdir(exist_ok=True)
        auth = {"auth": base64.b64encode(password.encode()).decode()}
        config_path().write_text(json.dumps({"auths": {closed_oci_host: auth}}))
        if works:
            push(registry, entry, open_remote(place))
            assert fetch(other, place).digest == entry.digest
        else:
            with pytest.raises(MwactlError, match="the login is not accepted"):
                push(registry, entry, open_remote(place))


def test_rot_stays_at_home(place: str, registry: Registry, entry: Entry, other: Registry) -> None:
    path = registry.root / "blobs/sha256" / entry.manifest["files"][0]["sha256"][:2]
    rotten = next(path.iterdir())
    rotten.chmod(0o644)
    rotten.write_bytes(b"rot" + rotten.read_bytes()[3:])
    with pytest.raises(VerificationError, match="corrupt; nothing was sent"):
        push(registry, entry, open_remote(place))
    with pytest.raises(NotFoundError):
        fetch(other, place)


def test_a_large_file_goes_up_and_down_in_pieces_of_memory(
    place: str, registry: Registry, other: Registry, publish: Callable[..., Entry], tmp_path: Path
) -> None:
    import tracemalloc

    entry = publish(registry, size=24_000_000)
    tracemalloc.start()
    try:
        push(registry, entry, open_remote(place))
        fetch(other, place)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000
