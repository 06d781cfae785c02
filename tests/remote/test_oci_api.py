"""What a registry may do that the real one at hand does not: list referrers itself, give tokens, lie, and fail."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mwactl.errors import MwactlError, NotFoundError, VerificationError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry import Entry, Registry
from mwactl.remote import oci, oci_api, open_remote, plan_pull, plan_push, pull, push
from mwactl.remote import offer as limits
from mwactl.remote.login import config_path

IMAGE_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass
class Modern:
    """A registry in memory that knows `subject`, gives two referrers a page, and asks for tokens if told to."""

    script: Any
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    upload_host: str = ""
    failing: dict[str, list[Any]] = field(default_factory=dict)
    spoil: Callable[[bytes], bytes] = bytes

    def respond(self, asked: Any) -> Any:
        for pattern, answers in self.failing.items():
            if answers and re.search(pattern, f"{asked.method} {asked.path}"):
                return answers.pop(0)
        answer = self.script.answer
        url = urlsplit(asked.path)
        if url.path == "/token":
            return answer(200, json.dumps({"token": self.token}).encode())
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.script.origin}/token",service="tests",scope="repository:coco:pull,push"'
            return answer(401, headers={"WWW-Authenticate": challenge})
        found = re.fullmatch(r"/v2/coco/(blobs|manifests|referrers)/(.*)", url.path)
        assert found, asked.path
        actions = {"blobs": self._blob, "manifests": self._manifest, "referrers": self._referrers}
        return actions[found[1]](asked, found[2], parse_qs(url.query))

    def _blob(self, asked: Any, digest: str, query: dict[str, list[str]]) -> Any:
        if asked.method == "POST":
            return self.script.answer(202, headers={"Location": f"{self.upload_host}/v2/coco/blobs/uploads/1?state=x"})
        if asked.method == "PUT":
            assert query["state"] == ["x"]
            self.blobs[query["digest"][0]] = asked.body
            return self.script.answer(201)
        if digest not in self.blobs:
            return self.script.answer(404)
        return self.script.ranged(asked, self.spoil(self.blobs[digest]))

    def _manifest(self, asked: Any, reference: str, query: dict[str, list[str]]) -> Any:
        if asked.method != "PUT":
            data = self.manifests.get(reference)
            return self.script.answer(404) if data is None else self.script.answer(200, data)
        self.manifests[reference] = self.manifests[f"sha256:{sha256_bytes(asked.body)}"] = asked.body
        subject = json.loads(asked.body).get("subject", {}).get("digest")
        return self.script.answer(201, headers={"OCI-Subject": subject} if subject else {})

    def _referrers(self, asked: Any, subject: str, query: dict[str, list[str]]) -> Any:
        about = [
            {"mediaType": said["mediaType"], "digest": digest, "size": len(data), "artifactType": said["artifactType"]}
            for digest, data in sorted(self.manifests.items())
            if (said := json.loads(data)).get("subject", {}).get("digest") == subject
        ]
        start = int(query.get("from", ["0"])[0])
        index = canonical_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": about[start : start + 2]})
        more = (
            {"Link": f'</v2/coco/referrers/{subject}?from={start + 2}>; rel="next"'} if start + 2 < len(about) else {}
        )
        return self.script.answer(200, index, more)


@pytest.fixture
def modern(script: Any) -> Modern:
    state = Modern(script)
    script.respond = state.respond
    return state


@pytest.fixture
def place(script: Any) -> str:
    return f"oci://{script.host}/coco:v1"


def fetch(registry: Registry, place: str) -> Entry:
    remote = open_remote(place)
    return pull(registry, remote, plan_pull(registry, remote))


def test_a_registry_that_lists_referrers_itself_is_believed_page_by_page(
    modern: Modern, place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    registry.attach(entry, "evaluation", {"rsum": 520.0})
    registry.attach(entry, "note", {"text": "good"})
    push(registry, entry, open_remote(place))
    assert not [reference for reference in modern.manifests if reference.startswith("sha256-")]
    documents = [each["document"] for each in other.attachments(fetch(other, place))]
    assert documents == [{"rsum": 500.0}, {"rsum": 510.5}, {"rsum": 520.0}, {"text": "good"}]


def test_a_token_is_fetched_when_the_registry_asks_and_used_from_then_on(
    modern: Modern, script: Any, place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    modern.token = "t-1"
    config_path().parent.mkdir()
    secret = base64.b64encode(b"me:secret").decode()
    config_path().write_text(json.dumps({"auths": {script.host: {"auth": secret}}}))
    push(registry, entry, open_remote(place))
    asked = [each for each in script.asked if each.path.startswith("/token")]
    assert [each.headers["authorization"] for each in asked] == [f"Basic {secret}"]
    assert fetch(other, place).digest == entry.digest


def test_an_upload_place_at_another_host_does_not_learn_who_we_are(
    modern: Modern, script: Any, place: str, registry: Registry, entry: Entry
) -> None:
    modern.upload_host = script.origin.replace("127.0.0.1", "localhost")
    push(registry, entry, open_remote(place))
    modern.token, modern.blobs = "t-1", {}
    with pytest.raises(MwactlError, match="this needs a login"):
        push(registry, entry, open_remote(place))
    assert not [each for each in script.asked if each.method == "PUT" and "authorization" in each.headers]


def test_an_upload_that_was_cut_off_begins_again(
    modern: Modern, script: Any, place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    modern.failing["PUT .*/blobs/"] = [script.answer(503), script.answer(500)]
    push(registry, entry, open_remote(place))
    assert fetch(other, place).digest == entry.digest


@pytest.mark.parametrize("step", ["PUT .*/blobs/", "PUT .*/manifests/sha256:", "PUT .*/manifests/v1"])
def test_a_push_that_is_stopped_leaves_no_tag_and_goes_on_the_next_time(
    modern: Modern, script: Any, place: str, registry: Registry, other: Registry, entry: Entry, step: str
) -> None:
    modern.failing[step] = [script.answer(403)]
    with pytest.raises(MwactlError, match="access is refused"):
        push(registry, entry, open_remote(place))
    with pytest.raises(NotFoundError):
        fetch(other, place)
    there = len(modern.blobs)
    sent = push(registry, entry, open_remote(place))
    assert sum(item.there for item in sent.items) >= there, "blobs that are there are not sent again"
    assert fetch(other, place).digest == entry.digest


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "this needs a login"),
        (403, "access is refused"),
        (404, "nothing at this address"),
        (429, "too many requests"),
        (500, "the server failed"),
        (418, "the server refuses"),
    ],
)
@pytest.mark.parametrize("step", ["GET .*/manifests/v1", "GET .*/blobs/"])
def test_every_refusal_of_a_pull_is_a_sentence(
    modern: Modern, script: Any, place: str, registry: Registry, other: Registry, entry: Entry,
    status: int, says: str, step: str,
) -> None:  # fmt: skip
    push(registry, entry, open_remote(place))
    modern.failing[step] = [script.answer(status) for _ in range(9)]
    if (status, step) == (404, "GET .*/blobs/"):
        says = "a document is missing"
    with pytest.raises(MwactlError, match=says) as caught:
        fetch(other, place)
    assert caught.value.fix
    assert other.names() == []


def test_a_download_that_is_cut_goes_on(
    modern: Modern, script: Any, place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    push(registry, entry, open_remote(place))
    digest = next(file["sha256"] for file in entry.manifest["files"] if file["size"] > 1000)
    content = modern.blobs[f"sha256:{digest}"]
    modern.failing[f"GET .*/blobs/sha256:{digest}"] = [script.answer(200, content, {}, 120_000)]
    assert fetch(other, place).digest == entry.digest
    ranges = [each.headers.get("range") for each in script.asked if each.path.endswith(digest)]
    assert ranges[-2:] == [None, "bytes=120000-"]


def test_wrong_bytes_get_no_name(modern: Modern, place: str, registry: Registry, other: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(place))
    modern.spoil = lambda content: content if len(content) < 1000 else b"?" + content[1:]
    with pytest.raises(VerificationError, match=r"adapter.safetensors is not what its manifest says"):
        fetch(other, place)
    modern.spoil = lambda content: b"?" + content[1:]
    with pytest.raises(VerificationError, match="a document is not what its digest says"):
        fetch(other, place)
    assert other.names() == []


def test_another_manifest_than_was_asked_for_is_refused(
    modern: Modern, place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    pinned = push(registry, entry, open_remote(place)).pinned
    modern.manifests[f"sha256:{pinned.rpartition(':')[2]}"] += b" "
    with pytest.raises(VerificationError, match="another manifest than was asked for"):
        fetch(other, pinned)


@pytest.mark.parametrize(
    ("manifests", "says"),
    [
        ("x", "another form"),
        ([3], "a descriptor is missing"),
        ([{"mediaType": "a/b", "digest": "md5:1", "size": 1}], "a descriptor is malformed"),
    ],
)
def test_a_list_of_referrers_that_makes_no_sense_is_refused(
    modern: Modern,
    script: Any,
    place: str,
    registry: Registry,
    other: Registry,
    entry: Entry,
    manifests: Any,
    says: str,
) -> None:
    push(registry, entry, open_remote(place))
    modern.failing["GET .*/referrers/"] = [script.answer(200, json.dumps({"manifests": manifests}).encode())]
    with pytest.raises(VerificationError, match=says):
        fetch(other, place)


def test_a_referrer_about_something_else_is_refused(
    modern: Modern, script: Any, place: str, registry: Registry, other: Registry, entry: Entry
) -> None:
    push(registry, entry, open_remote(place))
    later = registry.publish("later", kind="adapter", files={"a.txt": b"x"}, facts={}, verb="train")
    registry.attach(later, "evaluation", {"rsum": 600.0})
    push(registry, later, open_remote(place.replace(":v1", ":v2")))
    theirs = json.loads(modern.manifests["v2"])["config"]["digest"]
    foreign = [
        {"mediaType": said["mediaType"], "digest": digest, "size": len(data), "artifactType": said["artifactType"]}
        for digest, data in modern.manifests.items()
        if "subject" in (said := json.loads(data)) and b"rsum" not in data
    ]
    listed = canonical_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": foreign})
    modern.failing["GET .*/referrers/"] = [script.answer(200, listed)]
    assert theirs != f"sha256:{entry.digest}"
    with pytest.raises(VerificationError, match="an attachment is about something else"):
        fetch(other, place)


def test_a_thousand_attachments_are_too_many(
    modern: Modern, place: str, registry: Registry, other: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(registry, entry, open_remote(place))
    monkeypatch.setattr(oci, "MAX_ATTACHMENTS", 1)
    with pytest.raises(VerificationError, match="too much is attached"):
        fetch(other, place)
    monkeypatch.setattr(oci, "MAX_ATTACHMENTS", 2)
    monkeypatch.setattr(limits, "MAX_DOCUMENT_BYTES", 1500)
    with pytest.raises(VerificationError, match=r"too much is attached.*more than 1,500 bytes"):
        fetch(other, place)


def test_a_push_is_stopped_where_a_pull_would_be(
    modern: Modern, place: str, registry: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_ATTACHMENTS", 1)
    for action in (plan_push, push):
        with pytest.raises(MwactlError, match=r"nothing was sent.*2 documents.*takes 1; fix: mwactl registry pack"):
            action(registry, entry, open_remote(place))
    assert not modern.blobs


def test_what_others_attached_does_not_count(
    modern: Modern, script: Any, place: str, registry: Registry, other: Registry, entry: Entry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    push(registry, entry, open_remote(place))
    foreign = {"mediaType": IMAGE_TYPE, "digest": f"sha256:{'0' * 64}", "size": 9, "artifactType": "application/sig"}
    first = canonical_json({"manifests": [foreign] * 50})
    subject = sha256_bytes(modern.manifests["v1"])
    more = {"Link": '</v2/coco/referrers/x?n=1>; rel="next"'}
    monkeypatch.setattr(oci, "MAX_ATTACHMENTS", 2)
    modern.failing["GET .*/referrers/"] = [script.answer(200, first, more)]
    real = modern._referrers
    monkeypatch.setattr(modern, "_referrers", lambda asked, digest, query: real(asked, f"sha256:{subject}", query))
    assert len(other.attachments(fetch(other, place))) == 2


@pytest.mark.parametrize(
    "link",
    [
        lambda path, page: path,
        lambda path, page: f"{path.partition('?')[0]}?page={page}",
        lambda path, page: f"http://[?{page}",
    ],
)
def test_a_list_without_an_end_is_given_up(
    modern: Modern, script: Any, place: str, registry: Registry, other: Registry, entry: Entry,
    link: Callable[[str, int], str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    push(registry, entry, open_remote(place))
    monkeypatch.setattr(oci_api, "_MAX_PAGES", 20)
    pages = iter(range(1000))

    def endless(asked: Any, subject: str, query: dict[str, list[str]]) -> Any:
        said = {"Link": f'<{link(asked.path, next(pages))}>; rel="next"'}
        return script.answer(200, b'{"manifests": []}', said)

    monkeypatch.setattr(modern, "_referrers", endless)
    with pytest.raises(MwactlError, match=r"their list has no end|this address cannot be used"):
        fetch(other, place)
    assert next(pages) <= 20


def test_pages_are_bounded_together(
    modern: Modern, place: str, registry: Registry, other: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(registry, entry, open_remote(place))
    monkeypatch.setattr(limits, "MAX_DOCUMENT_BYTES", 100)
    with pytest.raises(VerificationError, match="more than 100 bytes"):
        open_remote(place)._repository.referrers(sha256_bytes(modern.manifests["v1"]))  # type: ignore[attr-defined]


def test_a_pickle_is_refused(modern: Modern, place: str, registry: Registry, other: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(place))
    image = json.loads(modern.manifests["v1"])
    old = image["config"]["digest"]
    manifest = modern.blobs[old].replace(b"recipe.yaml", b"recipes.bin")
    digest = f"sha256:{sha256_bytes(manifest)}"
    modern.blobs[digest] = manifest
    image["config"]["digest"] = digest
    modern.manifests["v1"] = canonical_json(image)
    with pytest.raises(VerificationError, match=r"recipes.bin is not kept in the registry.*pickle"):
        fetch(other, place)
