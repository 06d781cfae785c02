from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.card import Gap, model_card
from mwactl.files import canonical_json
from mwactl.registry import Entry, Registry


def gaps_of(registry: Registry, entry: Entry) -> dict[str, Gap]:
    return {gap.what: gap for gap in model_card(registry, entry).gaps}


def test_a_card_about_which_everything_is_known_lacks_only_intervals(registry: Registry, complete: Entry) -> None:
    assert list(gaps_of(registry, complete)) == ["the results have no intervals"]
    assert model_card(registry, complete).publishable


def test_what_is_needed_comes_first_and_has_a_command_that_mends_it(registry: Registry) -> None:
    facts = {"method": {"name": "mwa"}, "base": {"backbone": "tiny"}, "train": {"steps": 5}}
    entry = registry.publish("poor", kind="adapter", files={}, facts=facts, verb="train")
    found = list(gaps_of(registry, entry).values())
    assert [gap.needed for gap in found] == sorted((gap.needed for gap in found), reverse=True)
    assert [(gap.what, gap.fix) for gap in found if gap.needed] == [
        ("the licence is not known", "mwactl registry tag poor@1 license=apache-2.0"),
        ("there is no evaluation on data that training did not use", "mwactl eval poor@1 --data NAME"),
    ]
    assert {gap.what for gap in found if not gap.needed} == {
        "there is no evaluation that was checked to be zero-shot",
        "the backbone's repository on the Hub is not known",
        "the training data is not recorded",
        "validation by epoch was not kept with it",
    }


@pytest.mark.parametrize("licence", ["unknown", "other", " None "])
def test_a_licence_that_says_nothing_is_no_licence(registry: Registry, complete: Entry, licence: str) -> None:
    registry.tag(complete, {"license": licence})
    assert gaps_of(registry, complete)["the licence is not known"].needed
    assert "license" not in model_card(registry, complete).metadata


def test_a_licence_the_hub_does_not_know_needs_a_link(registry: Registry, complete: Entry) -> None:
    registry.tag(complete, {"license": "My Own 1.0"})
    gap = gaps_of(registry, complete)["the Hub does not know this licence, so it wants a link"]
    assert (gap.needed, gap.fix) == (True, "mwactl registry tag coco-mwa@1 license_link=URL")
    registry.tag(complete, {"license_link": "https://example.org/licence"})
    made = model_card(registry, complete)
    assert made.publishable
    assert {key: made.metadata[key] for key in ("license", "license_name", "license_link")} == {
        "license": "other", "license_name": "My Own 1.0", "license_link": "https://example.org/licence",
    }  # fmt: skip
    assert "My Own 1.0 (https://example.org/licence)" in made.text


@pytest.mark.parametrize("name", ["two/many/parts", "https://example.org/x", "spaces in it", "/rooted"])
def test_a_base_model_that_is_no_repository_is_refused_before_the_hub_does(
    registry: Registry, complete: Entry, name: str
) -> None:
    registry.tag(complete, {"base_model": name})
    assert gaps_of(registry, complete)["the tag base_model names no repository"].needed
    assert "base_model" not in model_card(registry, complete).metadata


def test_an_evaluation_on_the_training_data_is_no_test(
    registry: Registry, attach_evaluation: Callable[..., None]
) -> None:
    data = [{"name": "coco", "split": "val", "digest": "v" * 64}]
    facts: dict[str, Any] = {"base": {"backbone": "tiny"}, "train": {"steps": 1}, "data": data}
    entry = registry.publish("seen", kind="adapter", files={}, facts=facts, verb="train")
    attach_evaluation(entry, "coco", "val", digest="0" * 64)
    attach_evaluation(entry, "renamed", "test", digest="v" * 64)
    what = "there is no evaluation on data that training did not use"
    assert what in gaps_of(registry, entry), "neither by the data's name nor by its digest"
    attach_evaluation(entry, "coco", "test", digest="1" * 64)
    assert what not in gaps_of(registry, entry)


def test_ancestors_that_are_not_here_and_unknown_training_data_are_said(registry: Registry) -> None:
    base: dict[str, Any] = {"base": {"backbone": "tiny"}}
    orphan = registry.publish("orphan", kind="merged", files={}, facts=base, parents=["0" * 64], verb="merge")
    assert "an ancestor is not in this registry" in gaps_of(registry, orphan)
    imported = {"imported": {"file": "checkpoint-best.pth"}}
    entry = registry.publish("imported", kind="adapter", files={}, facts=base | imported, verb="import")
    assert "what it was trained on is not known: it was imported" in gaps_of(registry, entry)


def test_an_adapter_in_a_folder_has_to_be_in_a_registry_first(registry: Registry, tmp_path: Path) -> None:
    manifest = {"schema": 1, "kind": "adapter", "parents": [], "files": [], "base": {"backbone": "tiny"}}
    (tmp_path / "manifest.json").write_bytes(canonical_json(manifest))
    made = model_card(registry, registry.resolve(str(tmp_path)))
    assert {gap.fix for gap in made.gaps} == {f"mwactl registry add {tmp_path}"}
    assert f"# {tmp_path.name}\n" in made.text
