from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from mwactl.errors import NotFoundError, UsageError, VerificationError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry import Entry, Registry
from mwactl.registry.tags import parse_words, tags_in_history

Publish = Callable[..., Entry]


def test_tags_are_kept_by_version_with_a_checksum(registry: Registry, publish: Publish) -> None:
    first, second = publish(), publish(data=b"more")
    registry.tag(first, {"reviewed-by": "ann", "note": "größer = besser"})
    registry.tag(second, {"split": "val"})
    tags = {1: {"note": "größer = besser", "reviewed-by": "ann"}, 2: {"split": "val"}}
    assert registry.tags("coco") == tags
    document = json.loads((registry.root / "refs/coco/tags.json").read_bytes())
    checksum = document.pop("sha256")
    assert document == {str(version): words for version, words in tags.items()}
    assert checksum == sha256_bytes(canonical_json(document))
    assert registry.resolve("coco@1") == first, "neither digest nor manifest changes"


def test_tags_are_changed_added_and_taken_away_at_once(registry: Registry, publish: Publish) -> None:
    entry = publish()
    registry.tag(entry, {"a": "1", "b": "2", "c": "3"})
    change = registry.tag(entry, {"b": "two words", "d": "4"}, ["a"])
    assert registry.tags("coco") == {1: {"b": "two words", "c": "3", "d": "4"}}
    assert change.undo == "mwactl registry tag coco@1 a=1 b=2 --delete d"
    registry.tag(entry, {}, ["b", "c", "d"])
    assert registry.tags("coco") == {}


def test_the_same_tags_again_and_a_dry_run_write_nothing(
    registry: Registry, publish: Publish, snapshot: Callable[..., object]
) -> None:
    entry = publish()
    registry.tag(entry, {"a": "1"})
    before = snapshot(registry.root)
    assert registry.tag(entry, {"a": "1"}).is_empty
    assert not registry.tag(entry, {"a": "2"}, dry_run=True).is_empty
    assert snapshot(registry.root) == before


@pytest.mark.parametrize(
    ("words", "unset"),
    [({"": "x"}, []), ({"a b": "x"}, []), ({"-a": "x"}, []), ({"k" * 65: "x"}, []), ({"a": ""}, []),
     ({"a": "two\nlines"}, []), ({"a": "\x1b[31m"}, []), ({"a": "x" * 201}, []), ({"a": "x"}, ["a"])],
)  # fmt: skip
def test_what_cannot_be_a_tag_is_refused(
    registry: Registry, publish: Publish, words: dict[str, str], unset: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        registry.tag(publish(), words, unset)
    assert error.value.fix
    assert not (registry.root / "refs/coco/tags.json").exists()


def test_a_tag_that_is_not_there_cannot_be_taken_away(registry: Registry, publish: Publish) -> None:
    entry = publish()
    with pytest.raises(NotFoundError, match="it has no tags"):
        registry.tag(entry, {}, ["split"])
    registry.tag(entry, {"note": "x"})
    with pytest.raises(NotFoundError, match="it has note"):
        registry.tag(entry, {}, ["split"])


def test_a_version_that_was_removed_is_not_tagged(registry: Registry, publish: Publish) -> None:
    entry = publish()
    registry.remove(entry)
    with pytest.raises(NotFoundError, match="there is no coco@1"):
        registry.tag(entry, {"a": "1"})


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"7", b'{"1":{"a":"1"}}', b'{"1":{"a":"1"},"sha256":"00"}', b"\xff", b"[" * 100_000,
     b'{"1":{"a":NaN},"sha256":"00"}', b'{"1":{"a":"\\ud800"},"sha256":"00"}', b'{"x":{"a":"1"},"sha256":"00"}'],
)  # fmt: skip
def test_a_damaged_file_is_named_kept_and_not_written_over(
    registry: Registry, publish: Publish, content: bytes
) -> None:
    entry = publish()
    registry.tag(entry, {"a": "1"})
    path = registry.root / "refs/coco/tags.json"
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(VerificationError, match=r"tags of coco are damaged.*tags\.json"):
        registry.tags("coco")
    with pytest.raises(VerificationError, match="damaged"):
        registry.tag(entry, {"b": "2"})
    assert path.read_bytes() == content
    assert len(registry.labels("coco").problems) == 1


def test_the_history_knows_what_a_damaged_file_held(registry: Registry, publish: Publish) -> None:
    first, second = publish(), publish(data=b"more")
    registry.tag(first, {"a": "1"})
    registry.tag(second, {"b": "2"})
    registry.tag(first, {"c": "3"}, ["a"])
    registry.tag(second, {}, ["b"])
    registry.alias("coco", "prod", 1)
    registry.remove(second)
    assert tags_in_history(registry.history("coco")) == registry.tags("coco") == {1: {"c": "3"}}


def test_words_are_split_at_the_first_equals_sign() -> None:
    assert parse_words(["a=1", "b=x=y", "c= "]) == {"a": "1", "b": "x=y", "c": " "}
    for wrong in (["a"], ["a=1", "a=2"]):
        with pytest.raises(UsageError):
            parse_words(wrong)
