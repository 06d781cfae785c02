from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.errors import MwactlError, NotFoundError, ResourceError, UsageError, VerificationError
from mwactl.progress import Silent
from mwactl.registry import Entry, Registry
from mwactl.registry.blobs import BlobStore
from mwactl.remote import offer as limits
from mwactl.remote import open_remote, plan_pull, plan_push, pull, push

# The Hub's own library uses a deprecated argument of its HTTP library when it uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

PLACE = "hf://my-group/Coco-MWA"
REPOSITORY = "my-group/Coco-MWA"
CARD = b"---\nlicense: apache-2.0\n---\n# An adapter\n"


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def attached(registry: Registry, entry: Entry) -> list[Any]:
    return [each["document"] for each in registry.attachments(entry)]


def fetch(registry: Registry, place: str = PLACE, name: str | None = None) -> Entry:
    remote = open_remote(place)
    return pull(registry, remote, plan_pull(registry, remote, name))


def test_what_is_pushed_is_a_repository_that_people_can_read(hub: Any, registry: Registry, entry: Entry) -> None:
    sent = push(registry, entry, open_remote(PLACE), readme=CARD)
    files = hub.files(REPOSITORY)
    assert files["adapter.safetensors"] == registry.read(entry, "adapter.safetensors")
    assert files["recipe.yaml"] == b"name: coco-mwa\n"
    assert files["README.md"].startswith(CARD)
    assert files["mwactl-manifest.json"] == BlobStore(registry.root).read(entry.digest, where="")
    assert len([path for path in files if path.startswith("mwactl-attachments/000")]) == 2
    assert len(hub.commits[REPOSITORY]) == 2, "it takes one commit after the one that made the repository"
    assert sent.pinned == f"hf://{REPOSITORY}@{1:040x}"


def test_what_is_pulled_is_what_was_pushed(hub: Any, registry: Registry, other: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(PLACE), readme=CARD)
    found = fetch(other)
    assert (found.reference, found.digest) == ("coco-mwa@1", entry.digest)
    assert other.read(found, "adapter.safetensors") == registry.read(entry, "adapter.safetensors")
    assert attached(other, found) == attached(registry, entry) == [{"rsum": 500.0}, {"rsum": 510.5}]
    assert next(line["verb"] for line in other.history("coco-mwa")) == "pull"


def test_a_new_repository_is_private_unless_the_user_says_public(hub: Any, registry: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(PLACE))
    push(registry, entry, open_remote("hf://my-group/shown", public=True))
    assert hub.private == {REPOSITORY}


def test_a_dry_run_sends_nothing_and_says_what_is_there(hub: Any, registry: Registry, entry: Entry) -> None:
    items = plan_push(registry, entry, open_remote(PLACE), readme=CARD)
    assert not hub.commits and {asked.method for asked in hub.asked} == {"GET"}
    assert {item.what for item in items if not item.there} >= {"adapter.safetensors", "README.md"}
    push(registry, entry, open_remote(PLACE), readme=CARD)
    again = plan_push(registry, entry, open_remote(PLACE), readme=CARD + b"more")
    assert [item.what for item in again if not item.there] == ["README.md"]


def test_a_revision_is_the_content_it_was(
    hub: Any, registry: Registry, other: Registry, publish: Callable[..., Entry]
) -> None:
    first, second = publish(registry), publish(registry, size=2_000)
    pinned = push(registry, first, open_remote(PLACE)).pinned
    push(registry, second, open_remote(PLACE))
    assert fetch(other, pinned, "old").digest == first.digest
    assert fetch(other).digest == second.digest


def test_the_next_version_takes_the_files_of_the_last_one_away_and_leaves_others(
    hub: Any, registry: Registry, entry: Entry
) -> None:
    push(registry, entry, open_remote(PLACE))
    hub.files(REPOSITORY)["LICENSE"] = b"theirs"
    single = registry.publish("one", kind="adapter", files={"only.safetensors": b"x" * 2000}, facts={}, verb="train")
    push(registry, single, open_remote(PLACE))
    assert hub.files(REPOSITORY).keys() == {".gitattributes", "LICENSE", "mwactl-manifest.json", "only.safetensors"}


def test_results_that_others_attached_to_the_same_version_stay(
    hub: Any, registry: Registry, other: Registry, entry: Entry
) -> None:
    push(registry, entry, open_remote(PLACE))
    theirs = fetch(other)
    other.attach(theirs, "evaluation", {"rsum": 520.0})
    push(other, theirs, open_remote(PLACE))
    push(registry, entry, open_remote(PLACE))
    assert not hub.deleted
    assert attached(registry, fetch(registry)) == [{"rsum": 500.0}, {"rsum": 510.5}, {"rsum": 520.0}]


def test_two_pushes_at_once_do_not_mix(hub: Any, script: Any, registry: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(PLACE))
    registry.attach(entry, "evaluation", {"rsum": 1.0})

    def overtake(asked: Any) -> Any:
        if "/commit/" in asked.path:
            hub.commits[REPOSITORY].append(hub.files(REPOSITORY) | {"from": b"somebody else"})
        return hub.respond(asked)

    script.respond = overtake
    with pytest.raises(MwactlError, match=r"somebody else pushed there meanwhile"):
        push(registry, entry, open_remote(PLACE))
    assert hub.files(REPOSITORY)["from"] == b"somebody else"


def test_pushing_the_same_again_makes_no_commit(hub: Any, registry: Registry, entry: Entry) -> None:
    first = push(registry, entry, open_remote(PLACE))
    again = push(registry, entry, open_remote(PLACE))
    assert first.pinned == again.pinned and all(item.there for item in again.items)
    assert len(hub.commits[REPOSITORY]) == 2


def test_a_push_needs_a_token(
    hub: Any, registry: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(MwactlError, match=r"a push needs a login.*hf auth login"):
        push(registry, entry, open_remote(PLACE))
    assert not hub.asked


def test_a_token_that_may_not_make_a_repository_is_said_so(hub: Any, registry: Registry, entry: Entry) -> None:
    hub.errors["/api/repos/create"] = hub.answer(403, headers={"X-Error-Message": "no rights in this organisation"})
    with pytest.raises(MwactlError, match=r"access is refused.*no rights.*a token that may do this"):
        push(registry, entry, open_remote(PLACE))


def test_a_token_that_is_not_accepted_is_said_so(
    hub: Any, registry: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(MwactlError, match=r"the login is not accepted.*hf auth login"):
        push(registry, entry, open_remote(PLACE))


def test_a_private_repository_is_there_for_those_with_a_token_only(
    hub: Any, registry: Registry, other: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    push(registry, entry, open_remote(PLACE))
    assert plan_pull(other, open_remote(PLACE)).delivery.digest == entry.digest
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(NotFoundError, match=r"nothing at this address.*or it can only be seen after hf auth login"):
        plan_pull(other, open_remote(PLACE))


def test_a_gated_repository_says_where_to_ask(hub: Any, registry: Registry, other: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(PLACE))
    hub.gated.add(REPOSITORY)
    with pytest.raises(MwactlError, match=f"access is refused.*ask for access at {hub.origin}/{REPOSITORY}"):
        plan_pull(other, open_remote(PLACE))


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("hf://my-group/other", "there is nothing at this address"),
        (f"{PLACE}@v9", "there is nothing at this address"),
        ("hf://my-group/model", "there is no adapter of mwactl in this repository"),
    ],
)
def test_what_is_not_there_is_not_found(
    hub: Any, registry: Registry, other: Registry, entry: Entry, place: str, says: str
) -> None:
    push(registry, entry, open_remote(PLACE))
    hub.commits["my-group/model"] = [{"model.safetensors": b"weights"}]
    with pytest.raises(NotFoundError, match=says):
        fetch(other, place)


def test_too_many_requests_say_how_long_to_wait(hub: Any, registry: Registry, entry: Entry, other: Registry) -> None:
    push(registry, entry, open_remote(PLACE))
    hub.errors["/api/models/"] = hub.answer(429, headers={"Retry-After": "120"})
    with pytest.raises(MwactlError, match=r"too many requests.*wait for 120 s"):
        fetch(other)
    hub.errors.clear()
    hub.errors[f"/{REPOSITORY}/resolve/"] = hub.answer(429, headers={"Retry-After": "90"})
    with pytest.raises(MwactlError, match=r"too many requests.*wait for 90 s"):
        fetch(other)


def test_a_hub_that_cannot_be_reached_is_said_so(
    hub: Any, registry: Registry, other: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    with pytest.raises(MwactlError, match=r"the Hub cannot be reached.*check the network") as caught:
        fetch(other)
    assert caught.value.exit_code == 1
    with pytest.raises(MwactlError, match=r"the Hub cannot be reached"):
        push(registry, entry, open_remote(PLACE))


def test_offline_mode_is_kept_to(hub: Any, other: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MwactlError, match=r"HF_HUB_OFFLINE"):
        fetch(other)
    assert not hub.asked


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(
    hub: Any, registry: Registry, other: Registry, entry: Entry
) -> None:
    push(registry, entry, open_remote(PLACE))
    hub.cuts = [100_000, 50_000]
    assert fetch(other).digest == entry.digest
    ranges = [asked.headers.get("range") for asked in hub.asked if asked.path.startswith("/download/")]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content: b"\1" + content[1:], id="a byte is wrong"),
        pytest.param(lambda content: content[:-1], id="it is short"),
        pytest.param(lambda content: content + b"x", id="it is long"),
    ],
)
def test_wrong_bytes_get_no_name(
    hub: Any, registry: Registry, other: Registry, entry: Entry, spoil: Callable[[bytes], bytes], empty_home: Path
) -> None:
    push(registry, entry, open_remote(PLACE))
    hub.spoil = spoil
    with pytest.raises(VerificationError, match=r"adapter.safetensors is not what its manifest says"):
        fetch(other)
    assert other.names() == []
    assert not [path for path in (empty_home / "cache/incoming").iterdir() if path.stat().st_size > 1000]
    hub.spoil = lambda content: content
    assert fetch(other).digest == entry.digest


def test_an_attachment_must_be_what_its_name_says(hub: Any, registry: Registry, other: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(PLACE))
    path = min(path for path in hub.files(REPOSITORY) if path.startswith("mwactl-attachments/"))
    hub.files(REPOSITORY)[path] = hub.files(REPOSITORY)[path].replace(b"500", b"999")
    with pytest.raises(VerificationError, match=r"an attachment is not what its name says"):
        fetch(other)


@pytest.mark.parametrize("path", ["weights.bin", "sub/Model.PT", "checkpoint.pth"])
def test_a_pickle_is_refused(hub: Any, registry: Registry, other: Registry, entry: Entry, path: str) -> None:
    push(registry, entry, open_remote(PLACE))
    files = hub.files(REPOSITORY)
    files["mwactl-manifest.json"] = files["mwactl-manifest.json"].replace(b"recipe.yaml", path.encode())
    files[path] = files["recipe.yaml"]
    for attachment in [name for name in files if name.startswith("mwactl-attachments/")]:
        del files[attachment]
    with pytest.raises(VerificationError, match=f"{path} is not kept in the registry.*pickle"):
        fetch(other)


def test_a_corrupt_entry_is_not_sent(hub: Any, registry: Registry, entry: Entry) -> None:
    rotten = BlobStore(registry.root).path(entry.manifest["files"][0]["sha256"])
    rotten.chmod(0o644)
    rotten.write_bytes(b"rot" + rotten.read_bytes()[3:])
    with pytest.raises(VerificationError, match=r"corrupt; nothing was sent.*mwactl registry verify coco-mwa@1"):
        push(registry, entry, open_remote(PLACE))
    assert not hub.asked


def test_a_pull_repairs_what_rotted_here(hub: Any, registry: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(PLACE))
    rotten = BlobStore(registry.root).path(entry.manifest["files"][0]["sha256"])
    content = rotten.read_bytes()
    rotten.chmod(0o644)
    rotten.write_bytes(content[:-1])
    assert fetch(registry) == entry
    assert rotten.read_bytes() == content


def test_what_is_here_is_not_fetched_again(hub: Any, registry: Registry, entry: Entry) -> None:
    push(registry, entry, open_remote(PLACE))
    plan = plan_pull(registry, open_remote(PLACE))
    assert plan.fetch_bytes == 0 and plan.held == ("coco-mwa@1",)
    assert pull(registry, open_remote(PLACE), plan) == entry
    assert not [asked for asked in hub.asked if asked.path.startswith("/download/")]


@pytest.mark.parametrize("path", ["mwactl-manifest.json", "mwactl-attachments/x.json", ".gitattributes"])
def test_a_file_in_the_place_of_ours_is_not_pushed(hub: Any, registry: Registry, path: str) -> None:
    entry = registry.publish("odd", kind="adapter", files={path: b"x"}, facts={}, verb="train")
    with pytest.raises(UsageError, match=r"cannot be pushed to the Hub"):
        push(registry, entry, open_remote(PLACE))
    assert not hub.commits


def test_any_path_that_the_registry_takes_travels(hub: Any, registry: Registry, other: Registry) -> None:
    files: dict[str, Path | bytes] = {"a folder/größe #1 100%?.txt": b"x", "b/c.safetensors": b"y" * 2000}
    entry = registry.publish("odd", kind="adapter", files=files, facts={}, verb="train")
    push(registry, entry, open_remote(PLACE))
    assert fetch(other).digest == entry.digest


def test_a_card_of_the_entry_s_own_is_not_replaced(hub: Any, registry: Registry) -> None:
    files: dict[str, Path | bytes] = {"README.md": b"# mine\n", "a.safetensors": b"x"}
    entry = registry.publish("own", kind="adapter", files=files, facts={}, verb="train")
    push(registry, entry, open_remote(PLACE), readme=CARD)
    assert hub.files(REPOSITORY)["README.md"] == b"# mine\n"


def test_a_card_that_the_hub_refuses_is_said_so(hub: Any, registry: Registry, entry: Entry) -> None:
    hub.errors["/api/validate-yaml"] = hub.answer(
        400, b'{"errors": [{"message": "license is unknown"}], "warnings": []}'
    )
    with pytest.raises(MwactlError, match=r"license is unknown"):
        push(registry, entry, open_remote(PLACE), readme=CARD)
    assert "README.md" not in hub.files(REPOSITORY)


def test_a_readme_that_somebody_wrote_or_changed_stays(
    hub: Any, registry: Registry, entry: Entry, publish: Callable[..., Entry]
) -> None:
    heard = Heard()
    push(registry, entry, open_remote(PLACE, reporter=heard), readme=CARD)
    second = publish(registry, size=2_000)
    push(registry, second, open_remote(PLACE, reporter=heard), readme=CARD + b"## Of the second\n")
    assert b"Of the second" in hub.files(REPOSITORY)["README.md"]
    assert not heard.warnings
    theirs = hub.files(REPOSITORY)["README.md"].replace(b"# An adapter", b"# Our adapter")
    hub.files(REPOSITORY)["README.md"] = theirs
    push(registry, entry, open_remote(PLACE, reporter=heard), readme=CARD)
    assert hub.files(REPOSITORY)["README.md"] == theirs
    assert heard.warnings == ["README.md there was written by somebody: it stays (mwactl card coco-mwa@1)"]


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"null",
        b"<html><body>Log in to use this network</body></html>",
        b"[" * 100_000,
        b'{"id": "a/b"}',
        b'{"id": "a/b", "sha": 3, "siblings": []}',
        b'{"id": "a/b", "sha": "' + b"0" * 40 + b'", "siblings": {"rfilename": "x"}}',
        b'{"id": "a/b", "sha": "' + b"0" * 40 + b'", "siblings": [{"rfilename": ["x"]}]}',
        b'{"id": "a/b", "sha": "' + b"0" * 40 + b'", "siblings": [3]}',
    ],
)
def test_an_answer_that_the_hub_never_gives_is_said_so(
    hub: Any, registry: Registry, other: Registry, entry: Entry, body: bytes
) -> None:
    hub.errors["/api/models/"] = hub.answer(200, body, {"Content-Type": "text/html"})
    for action in (lambda: fetch(other), lambda: push(registry, entry, open_remote(PLACE), readme=CARD)):
        with pytest.raises(MwactlError, match=r"this is not how the Hub answers.*asks for a login in a browser"):
            action()


def test_a_web_page_in_the_place_of_a_commit_is_no_fault_of_the_card(
    hub: Any, registry: Registry, entry: Entry
) -> None:
    push(registry, entry, open_remote(PLACE))
    registry.attach(entry, "evaluation", {"rsum": 1.0})
    hub.errors[f"/api/models/{REPOSITORY}/commit/"] = hub.answer(200, b"<html>", {"Content-Type": "text/html"})
    with pytest.raises(MwactlError, match=r"this is not how the Hub answers"):
        push(registry, entry, open_remote(PLACE), readme=CARD)


def test_a_web_page_in_the_place_of_the_manifest_is_said_so(
    hub: Any, registry: Registry, other: Registry, entry: Entry
) -> None:
    push(registry, entry, open_remote(PLACE))
    hub.errors[f"/{REPOSITORY}/resolve/"] = hub.answer(200, b"<html>", {"Content-Type": "text/html; charset=x"})
    with pytest.raises(MwactlError, match=r"a web page came instead of an answer.*asks for a login in a browser"):
        fetch(other)


@pytest.mark.parametrize("location", ["http://[", "http://h/\xe9", "http://" + "a" * 70, "http://h:99999/x"])
def test_a_download_that_is_sent_nowhere_is_said_so(
    hub: Any, registry: Registry, other: Registry, entry: Entry, location: str
) -> None:
    push(registry, entry, open_remote(PLACE))
    for start in (f"/{REPOSITORY}/resolve/", "/api/models/"):
        hub.errors = {start: hub.answer(302, headers={"Location": location})}
        with pytest.raises(MwactlError) as caught:
            fetch(other)
        assert caught.value.fix


def test_documents_are_bounded_in_number_and_together(
    hub: Any, registry: Registry, other: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(registry, entry, open_remote(PLACE))
    monkeypatch.setattr(limits, "MAX_DOCUMENT_BYTES", 150)
    with pytest.raises(VerificationError, match=r"too much is attached.*more than 150 bytes"):
        fetch(other)
    monkeypatch.setattr(limits, "MAX_ATTACHMENTS", 1)
    for action in (plan_push, push):
        with pytest.raises(MwactlError, match=r"nothing was sent.*2 documents.*takes 1; fix: mwactl registry pack"):
            action(registry, entry, open_remote("hf://my-group/second"))


def test_a_push_goes_to_no_revision(hub: Any, registry: Registry, entry: Entry) -> None:
    with pytest.raises(UsageError, match=r"a push goes to the main branch.*leave out the revision"):
        push(registry, entry, open_remote(f"{PLACE}@v1"))


def test_a_full_disk_is_said_before_anything_is_fetched(
    hub: Any, registry: Registry, other: Registry, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(registry, entry, open_remote(PLACE))
    usage = shutil.disk_usage("/")
    reserve = 64 * 2**20
    free = reserve + 2 * entry.size_bytes - 1  # what comes is in the cache and in the registry for a while
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    with pytest.raises(ResourceError, match=r"67\.7 MB are needed.*67\.7 MB are free"):
        fetch(other)
    assert not [asked for asked in hub.asked if asked.path.startswith("/download/")]
