from __future__ import annotations

from collections.abc import Callable

import pytest

from mwactl.errors import UsageError, VerificationError
from mwactl.registry import Entry, Registry
from mwactl.registry.attachments import Attachments, parse_attachment
from mwactl.registry.blobs import BlobStore

Publish = Callable[..., Entry]


def test_a_result_is_attached_without_changing_the_entry(registry: Registry, publish: Publish) -> None:
    entry = publish()
    digest = registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 60.5}})
    assert registry.resolve("coco") == entry
    (attachment,) = registry.attachments(entry)
    assert attachment.pop("created") >= entry.created
    assert attachment == {"kind": "evaluation", "digest": digest, "document": {"text_to_image": {"R@1": 60.5}}}


def test_the_layout_on_disk_is_the_documented_one(registry: Registry, publish: Publish) -> None:
    entry = publish()
    digest = registry.attach(entry, "evaluation", {"rsum": 500.0})
    pointer = registry.root / "refs/coco/attached" / entry.digest[:16] / "evaluation/1"
    assert pointer.read_text() == f"{digest}\n"
    assert (registry.root / "blobs/sha256" / digest[:2] / digest).read_text() == (
        f'{{"document":{{"rsum":500.0}},"kind":"evaluation","schema":1,"subject":"{entry.digest}"}}'
    )


def test_results_come_oldest_first_and_by_kind(registry: Registry, publish: Publish) -> None:
    entry = publish()
    for number in range(11):
        registry.attach(entry, "evaluation", {"number": number})
    registry.attach(entry, "card", {"text": "hello"})
    evaluations = registry.attachments(entry, "evaluation")
    assert [evaluation["document"]["number"] for evaluation in evaluations] == list(range(11))
    assert [attachment["kind"] for attachment in registry.attachments(entry)] == ["card"] + ["evaluation"] * 11
    assert registry.attachments(entry, "signature") == []


def test_the_same_result_again_is_not_attached_twice(registry: Registry, publish: Publish) -> None:
    entry = publish()
    first = registry.attach(entry, "evaluation", {"rsum": 1})
    assert registry.attach(entry, "evaluation", {"rsum": 1}) == first
    registry.attach(entry, "evaluation", {"rsum": 2})
    registry.attach(entry, "evaluation", {"rsum": 1})
    assert [item["document"]["rsum"] for item in registry.attachments(entry)] == [1, 2, 1]


def test_a_result_belongs_to_one_content(registry: Registry, publish: Publish) -> None:
    first, second = publish(), publish(data=b"more")
    registry.attach(first, "evaluation", {"rsum": 1})
    assert registry.attachments(second) == []


def test_a_rotten_result_hides_no_other_and_heals(registry: Registry, publish: Publish) -> None:
    entry = publish()
    digests = [registry.attach(entry, "evaluation", {"rsum": number}) for number in range(3)]
    path = registry.root / "blobs/sha256" / digests[2][:2] / digests[2]
    path.chmod(0o644)
    path.write_bytes(b"rot")
    attachments = registry.attachments(entry)
    assert [item["document"] for item in attachments] == [{"rsum": 0}, {"rsum": 1}, {}]
    assert "evaluation 3 of coco@1 is corrupt" in attachments[2]["problem"]
    registry.attach(entry, "evaluation", {"rsum": 2})
    assert [item["document"] for item in registry.attachments(entry)] == [{"rsum": 0}, {"rsum": 1}, {"rsum": 2}]


def test_a_result_about_another_entry_is_not_believed(registry: Registry, publish: Publish) -> None:
    first, second = publish(), publish(data=b"more")
    digest = registry.attach(first, "evaluation", {"rsum": 600})
    registry.attach(second, "evaluation", {"rsum": 1})
    pointer = registry.root / "refs/coco/attached" / second.digest[:16] / "evaluation/1"
    pointer.chmod(0o644)
    pointer.write_text(f"{digest}\n")
    (attachment,) = registry.attachments(second)
    assert attachment["document"] == {}
    assert "about something else" in attachment["problem"]
    results = Attachments(registry.root, BlobStore(registry.root), second)
    with pytest.raises(VerificationError, match="about something else") as error:
        list(results.portable())
    assert error.value.fix == f"delete the file {pointer}, which leads there; then: mwactl eval coco@2"
    pointer.unlink()
    assert list(results.portable()) == []


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (b"{", "fetch it again"),
        (b'{"kind": "evaluation", "subject": "a", "schema": 2}', "pip install --upgrade mwactl"),
        (b'{"kind": "evaluation", "subject": "a", "schema": 1}', "fetch it again"),
        (b'{"kind": "evaluation", "subject": "b", "schema": 1}', "fetch it again"),
    ],
)
def test_what_is_no_result_says_what_to_do(content: bytes, fix: str) -> None:
    with pytest.raises(VerificationError) as error:
        parse_attachment(content, kind="evaluation", subject="a", where="it")
    assert (error.value.fix or "").startswith(fix)


def test_attaching_is_in_the_history_and_does_not_change_created(registry: Registry, publish: Publish) -> None:
    entry = publish()
    digest = registry.attach(entry, "evaluation", {"rsum": 1})
    line = registry.history("coco")[-1]
    assert (line["verb"], line["old"]) == ("attach", None)
    assert line["new"] == {"version": 1, "digest": entry.digest, "attachment": "evaluation", "attached": digest}
    assert registry.resolve("coco").created == entry.created


@pytest.mark.parametrize("kind", ["", "../evaluation", "a/b"])
def test_a_kind_that_is_no_name_is_refused(registry: Registry, publish: Publish, kind: str) -> None:
    with pytest.raises(UsageError):
        registry.attach(publish(), kind, {})


def test_a_result_with_a_number_that_is_none_is_refused(registry: Registry, publish: Publish) -> None:
    entry = publish()
    with pytest.raises(ValueError, match="JSON"):
        registry.attach(entry, "evaluation", {"rsum": float("nan")})
    assert registry.attachments(entry) == []
