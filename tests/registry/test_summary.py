from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mwactl.registry import BrokenEntry, Entry, Registry
from mwactl.registry.labels import Labels
from mwactl.registry.summary import summaries, summary

Publish = Callable[..., Entry]


def test_a_row_says_what_the_version_is(registry: Registry, publish: Publish) -> None:
    entry = publish(data=b"12345")
    assert summary(registry, entry, Labels()) == {
        "reference": "coco@1",
        "name": "coco",
        "version": 1,
        "aliases": [],
        "tags": {},
        "status": "ok",
        "problem": None,
        "digest": entry.digest,
        "kind": "adapter",
        "backbone": "tiny",
        "method": "mwa",
        "size_bytes": 5,
        "text_to_image_r1": None,
        "created": entry.created,
    }


@pytest.mark.parametrize("facts", [{"base": None, "method": None, "metrics": None}, {"base": [], "metrics": {"a": 1}}])
def test_absent_facts_are_blank(registry: Registry, publish: Publish, facts: dict[str, Any]) -> None:
    row = summary(registry, publish(**facts), Labels())
    assert row["backbone"] is None
    assert row["text_to_image_r1"] is None


def test_recall_comes_from_the_newest_evaluation_that_has_it(registry: Registry, publish: Publish) -> None:
    entry = publish(metrics=[{"text_to_image": {"R@1": 50.0}}])
    assert summary(registry, entry, Labels())["text_to_image_r1"] == 50.0
    registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 60.5}})
    registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 61}})
    registry.attach(entry, "evaluation", {"rsum": 500.0})
    registry.attach(entry, "note", {"text_to_image": {"R@1": 99.0}})
    assert summary(registry, entry, Labels())["text_to_image_r1"] == 61.0


def test_recall_at_publication_may_be_under_values(registry: Registry, publish: Publish) -> None:
    metrics = [{"dataset": "coco", "split": "val", "values": {"text_to_image": {"R@1": 42.0}}}]
    assert summary(registry, publish(metrics=metrics), Labels())["text_to_image_r1"] == 42.0


def test_a_broken_entry_is_a_row_that_says_corrupt(registry: Registry) -> None:
    row = summary(registry, BrokenEntry("coco", 3, "the manifest is corrupt"), Labels({3: ["prod"]}))
    assert row == {
        "reference": "coco@3", "name": "coco", "version": 3, "aliases": ["prod"], "tags": {}, "status": "corrupt",
        "problem": "the manifest is corrupt",
    }  # fmt: skip


def test_rows_have_the_labels_of_their_version_and_damage_is_said_once(registry: Registry, publish: Publish) -> None:
    publish("zebra"), publish(), publish(data=b"more")
    for alias, version in (("prod", 1), ("best", 1), ("next", 2)):
        registry.alias("coco", alias, version)
    registry.tag(registry.resolve("coco@2"), {"split": "val"})
    rows, problems = summaries(registry)
    assert [(row["reference"], row["aliases"], row["tags"]) for row in rows] == [
        ("coco@2", ["next"], {"split": "val"}), ("coco@1", ["best", "prod"], {}), ("zebra@1", [], {}),
    ]  # fmt: skip
    assert problems == []
    for path in (registry.root / "refs/coco/tags.json", registry.root / "refs/coco/aliases/prod"):
        path.chmod(0o644)
        path.write_bytes(b"rot")
    rows, problems = summaries(registry)
    assert [(row["aliases"], row["tags"]) for row in rows] == [(["next"], {}), (["best"], {}), ([], {})]
    assert ["tags of coco are damaged" in problems[1], "alias coco:prod is corrupt" in problems[0]] == [True, True]
