"""The whole card: what the Hub's own classes read from it, and what people can do with it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard as HubCard
from huggingface_hub import ModelCardData

from mwactl.card import model_card
from mwactl.registry import Entry, Registry

Publish = Callable[..., Entry]


def body(text: str) -> str:
    return text.split("\n---\n", 1)[1]


def section(text: str, heading: str) -> str:
    return body(text).split(f"\n## {heading}\n")[1].split("\n## ")[0].strip()


def test_the_hubs_own_classes_read_the_front_matter_and_write_it_back(registry: Registry, complete: Entry) -> None:
    made = model_card(registry, complete)
    card = HubCard(made.text)
    assert isinstance(card.data, ModelCardData)
    assert card.data.license == "apache-2.0"
    assert (card.data.library_name, card.data.pipeline_tag) == ("mwactl", "feature-extraction")
    assert card.data.base_model == "some-org/tiny"
    assert card.data.datasets == ["coco"]
    assert yaml.safe_load(card.data.to_yaml()) == made.metadata
    assert card.text.strip().startswith("# coco-mwa")


def test_every_result_is_in_the_hubs_model_index(registry: Registry, complete: Entry) -> None:
    results = HubCard(model_card(registry, complete).text).data.eval_results
    values = {(r.dataset_name, r.dataset_config, r.metric_name): r.metric_value for r in results}
    assert {name for name, _, _ in values} == {"coco test", "flickr30k test"}
    assert values["coco test", "full", "text-to-image R@1"] == 60.54
    assert values["coco test", "full", "image-to-text R@10"] == 99.0
    assert values["coco test", "full", "RSUM"] == 512.44
    assert values["coco test", "coco-1k", "RSUM"] == 530.0
    assert {r.dataset_split for r in results} == {"test"}
    assert [r.dataset_args["zero_shot"] for r in results if r.dataset_name == "flickr30k test"] == [True] * 7


def test_a_split_that_was_trained_on_is_in_the_table_with_a_mark_but_not_in_the_model_index(
    registry: Registry, complete: Entry, attach_evaluation: Callable[..., None]
) -> None:
    attach_evaluation(complete, "coco", "val", digest="v" * 64, rsum=600.0)
    made = model_card(registry, complete)
    assert "| coco val † |" in made.text
    assert "A split marked † was trained on or chose the epoch" in made.text
    names = {result["dataset"]["name"] for result in made.metadata["model-index"][0]["results"]}
    assert "coco val" not in names


def test_the_same_registry_gives_the_same_card_without_times_and_places(registry: Registry, complete: Entry) -> None:
    first = model_card(registry, complete).text
    assert first == model_card(registry, complete).text
    assert complete.created[:10] not in first
    assert "/home/" not in first, "the recipe's and the backbone's places on one machine are nobody's business"
    assert "name: clip:local-dir:tiny\n" in first
    assert "weights: weights.safetensors\n" in first
    assert "| backbone | clip:local-dir:tiny |" in first


def test_the_card_says_everything_the_registry_knows(registry: Registry, complete: Entry) -> None:
    text = model_card(registry, complete).text
    for known in (
        "`sha256:" + "f" * 64 + "`",
        "| adapter's parameters | 1,000 (0.1 % of the backbone's) |",
        "| coco | train | 113,287 | 566,747 | 3 | `" + "t" * 64 + "` |",
        "| steps | 60 |",
        "| best epoch | 2 |",
        "| time | 3,600 s |",
        "| peak memory | 8.10 GB |",
        "torch 2.6",
        "  lr: 0.001\n",
        "3 pictures could not be read and were skipped",
        f"sha256:{complete.digest}",
        f"| `adapter.safetensors` | 7 | `{complete.manifest['files'][0]['sha256']}` |",
    ):
        assert known in text, known


def test_zero_shot_is_claimed_where_it_was_checked_and_nowhere_else(registry: Registry, complete: Entry) -> None:
    results = section(model_card(registry, complete).text, "Results")
    assert "| flickr30k test (zero-shot) |" in results
    assert "| coco test |" in results


def test_a_claim_that_was_checked_once_stays_true_of_the_same_data(
    registry: Registry, complete: Entry, attach_evaluation: Callable[..., None]
) -> None:
    attach_evaluation(complete, "flickr30k", "test", digest="k" * 64, rsum=480.0, zero_shot=False)
    text = model_card(registry, complete).text
    assert "| flickr30k test (zero-shot) |" in text
    assert "480.0" in text, "the newest numbers count"
    attach_evaluation(complete, "flickr30k", "test", digest="0" * 64, rsum=470.0, zero_shot=False)
    assert "| flickr30k test |" in model_card(registry, complete).text, "other data of that name has no such claim"


def test_intervals_are_shown_where_an_evaluation_has_them_and_never_made_up(
    registry: Registry, complete: Entry, attach_evaluation: Callable[..., None]
) -> None:
    before = model_card(registry, complete).text
    assert "[" not in section(before, "Results")
    assert "The results have no intervals." in before
    intervals = {"level": 0.95, "text_to_image": {"R@1": [59.9, 61.2]}, "rsum": [508.0, 517.0]}
    attach_evaluation(complete, "coco", "test", intervals=intervals)
    after = model_card(registry, complete).text
    assert "| 60.5 [59.9, 61.2] |" in after
    assert "| 512.4 [508.0, 517.0] |" in after
    assert "intervals at level 0.95" in after
    assert "The results have no intervals." not in after


def test_the_curve_is_drawn_where_it_was_kept(registry: Registry, complete: Entry) -> None:
    training = section(model_card(registry, complete).text, "Training")
    assert "Validation RSUM by epoch: `▁█▅` (400.0 to 470.0)" in training
    assert "| 2 | 470.0 |" in training


def test_a_long_curve_is_a_short_table_with_its_best_and_last_epoch(registry: Registry, complete: Entry) -> None:
    epochs = [{"epoch": epoch, "rsum": 100.0 + epoch} for epoch in range(1, 103)]
    registry.attach(complete, "training", {"validation": epochs})
    training = section(model_card(registry, complete).text, "Training")
    rows = re.findall(r"^\| (\d+) \| \d+\.\d \|$", training, flags=re.MULTILINE)
    assert len(rows) <= 14
    assert {"1", "2", "102"} <= set(rows)


def test_what_is_missing_is_said_and_not_invented(registry: Registry) -> None:
    facts = {
        "method": {"name": "mwa"}, "base": {"backbone": "tiny"}, "train": {"steps": 5}, "data": [],
        "metrics": [{"dataset": "coco", "split": "val", "rsum": 400.0}],
    }  # fmt: skip
    made = model_card(registry, registry.publish("poor", kind="adapter", files={}, facts=facts, verb="train"))
    for said in (
        "No evaluation is kept with this version",
        "The training data is not recorded.",
        "Validation by epoch was not kept with this version. The best epoch's RSUM on coco val was 400.0.",
        "No recipe is recorded.",
        "It was not evaluated on data that training did not use.",
        "Not stated. The backbone",
    ):
        assert said in made.text, said
    assert not {"license", "base_model", "datasets", "model-index", "metrics"} & made.metadata.keys()
    assert not made.publishable


def test_an_untrained_and_an_imported_adapter_say_so(registry: Registry) -> None:
    base: dict[str, Any] = {"method": {"name": "mwa"}, "base": {"backbone": "tiny"}, "train": None, "data": []}
    untrained = registry.publish("fresh", kind="adapter", files={}, facts=base, verb="inject")
    assert "**It is not trained.**" in model_card(registry, untrained).text
    origin = {"imported": {"file": "checkpoint-best.pth", "sha256": "c" * 64}}
    imported = model_card(
        registry, registry.publish("old", kind="adapter", files={}, facts=base | origin, verb="import")
    )
    assert "It was imported from `checkpoint-best.pth`" in imported.text
    assert "so no evaluation of it can be called zero-shot" in imported.text
    assert "**It is not trained.**" not in imported.text


@pytest.mark.parametrize("facts", [{}, {"base": None, "method": [], "train": 3, "data": {"x": 1}, "metrics": None}])
def test_a_manifest_without_the_usual_facts_has_a_card_too(registry: Registry, facts: dict[str, Any]) -> None:
    made = model_card(registry, registry.publish("odd", kind="adapter", files={}, facts=facts, verb="x"))
    HubCard(made.text)
    assert not made.publishable


def test_signs_of_markdown_and_templates_in_names_do_no_harm(
    registry: Registry, attach_evaluation: Callable[..., None]
) -> None:
    entry = registry.publish("odd", kind="adapter", files={"$name.md": b""}, facts={}, verb="x")
    attach_evaluation(entry, "a|b $digest", "te\nst")
    made = model_card(registry, entry)
    assert "| a\\|b $digest te st |" in made.text
    assert "`$name.md`" in made.text
    (result,) = HubCard(made.text).data.eval_results[:1]
    assert result.dataset_type == "a|b $digest"


def test_a_damaged_attachment_is_left_out_and_said(registry: Registry, complete: Entry) -> None:
    digest = registry.attachments(complete, "evaluation")[0]["digest"]
    path = registry.root / "blobs/sha256" / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(b"rot")
    made = model_card(registry, complete)
    assert "| coco test | 5,000 × 25,010 | full |" not in made.text
    assert any("evaluation 1 of coco-mwa@1 is corrupt" in gap.what for gap in made.gaps)


def test_the_python_in_the_card_runs(mwactl_cli, empty_home) -> None:
    assert mwactl_cli("inject", "--backbone", "clip-tiny-emoji", "--name", "fresh").code == 0
    registry = Registry.default()
    text = model_card(registry, registry.resolve("fresh")).text
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert tuple(names["embedding"].shape) == (1, 128)


def test_the_commands_in_the_card_exist(registry: Registry, complete: Entry, mwactl_cli) -> None:
    text = model_card(registry, complete).text
    commands = re.findall(r"^\$ mwactl (.*)$", text, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in [*commands, *re.findall(r"`mwactl ([^`]*)`", text)]:
        words = shlex.split(command)
        verb = words[:2] if words[0] == "registry" else words[:1]
        assert mwactl_cli(*verb, "--help").code == 0, command
