from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mwactl.registry import BrokenEntry, Entry, Registry
from mwactl.registry.summary import summary

Publish = Callable[..., Entry]


def test_a_row_says_what_the_version_is(registry: Registry, publish: Publish) -> None:
    entry = publish(data=b"12345")
    assert summary(registry, entry) == {
        "reference": "coco@1",
        "name": "coco",
        "version": 1,
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
    row = summary(registry, publish(**facts))
    assert row["backbone"] is None
    assert row["text_to_image_r1"] is None


def test_recall_comes_from_the_newest_evaluation_that_has_it(registry: Registry, publish: Publish) -> None:
    entry = publish(metrics=[{"text_to_image": {"R@1": 50.0}}])
    assert summary(registry, entry)["text_to_image_r1"] == 50.0
    registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 60.5}})
    registry.attach(entry, "evaluation", {"text_to_image": {"R@1": 61}})
    registry.attach(entry, "evaluation", {"rsum": 500.0})
    registry.attach(entry, "note", {"text_to_image": {"R@1": 99.0}})
    assert summary(registry, entry)["text_to_image_r1"] == 61.0


def test_recall_at_publication_may_be_under_values(registry: Registry, publish: Publish) -> None:
    metrics = [{"dataset": "coco", "split": "val", "values": {"text_to_image": {"R@1": 42.0}}}]
    assert summary(registry, publish(metrics=metrics))["text_to_image_r1"] == 42.0


def test_a_broken_entry_is_a_row_that_says_corrupt(registry: Registry) -> None:
    row = summary(registry, BrokenEntry("coco", 3, "the manifest is corrupt"))
    assert row == {
        "reference": "coco@3", "name": "coco", "version": 3, "status": "corrupt", "problem": "the manifest is corrupt",
    }  # fmt: skip
