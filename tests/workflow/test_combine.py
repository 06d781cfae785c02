from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mwactl.adapter.serialise import from_bytes
from mwactl.errors import IncompatibleError, VerificationError
from mwactl.registry import Entry, Registry
from mwactl.workflow.combine import Mixture, combine_adapters
from mwactl.workflow.evaluate import EvaluationOptions, check_unseen
from mwactl.workflow.load import load_adapted
from mwactl.workflow.merge import merge_adapter
from mwactl.workflow.splits import checked_split

Train = Callable[..., Any]
OPTIONS = EvaluationOptions(device="cpu", workers=0)
HALF = Mixture((0.5, 0.5))


@pytest.fixture
def pair(train: Train, registry: Registry, made_once: Callable[..., str]) -> tuple[Entry, Entry]:
    """Two adapters of one recipe, trained on the same data with two seeds."""

    def make() -> str:
        return " ".join(
            train("train.epochs=1", f"train.seed={seed}", f"name=seed-{seed}").entry.reference for seed in (1, 2)
        )

    one, other = made_once("seeds 1 and 2", make).split()
    return registry.resolve(one), registry.resolve(other)


def tensors(registry: Registry, entry: Entry) -> dict[str, torch.Tensor]:
    return from_bytes(registry.read(entry, "adapter.safetensors"), where=entry.reference)[0]


def test_an_average_is_an_adapter_that_loads_and_merges_like_any_other(
    registry: Registry, pair: tuple[Entry, Entry]
) -> None:
    done = combine_adapters(registry, pair, HALF, name="both")
    one, other, both = (tensors(registry, entry) for entry in (*pair, done.entry))
    assert all(torch.allclose(both[name], (one[name] + other[name]) / 2, atol=1e-7) for name in both)
    assert done.entry.manifest["parents"] == [entry.digest for entry in pair]
    assert done.entry.manifest["combined"] == {"weights": [0.5, 0.5], "scale": None}
    load_adapted(registry, done.entry)
    assert merge_adapter(registry, done.entry, name="both-merged").equality.max_abs <= 1e-5


def test_averaging_again_gives_the_version_there_is_and_other_weights_a_new_one(
    registry: Registry, pair: tuple[Entry, Entry]
) -> None:
    first = combine_adapters(registry, pair, HALF, name="both").entry
    assert combine_adapters(registry, pair, HALF, name="both").entry == first
    assert combine_adapters(registry, pair, Mixture((0.25, 0.75)), name="both").entry.version == 2


def test_data_that_either_parent_saw_is_not_zero_shot(
    registry: Registry, pair: tuple[Entry, Entry], train: Train, tiny_data: str, add_data, tiny_pictures, listener
) -> None:
    add_data("elsewhere", tiny_pictures)
    other = train("train.epochs=1", "data.name=elsewhere", "name=elsewhere").entry
    entry = combine_adapters(registry, (other, pair[0]), HALF, name="both").entry
    for name in ("tiny", "elsewhere"):
        with pytest.raises(VerificationError, match=f"not zero-shot on {name}") as raised:
            check_unseen(registry, entry, checked_split(name, "test", on_error="stop", reporter=listener))
        assert raised.value.why == f"it was trained on {name}"


def test_adapters_of_another_structure_are_refused_with_the_option_that_differs(
    registry: Registry, pair: tuple[Entry, Entry], train: Train
) -> None:
    other = train("train.epochs=1", "method.mwa.knowledge_extractor=5", "name=other").entry
    with pytest.raises(IncompatibleError, match="cannot be averaged") as raised:
        combine_adapters(registry, (pair[0], other), HALF, name="both")
    assert raised.value.exit_code == 4
    assert raised.value.why == "they have another method: config.mwa.knowledge_extractor is 4 and 5"


def test_adapters_of_other_methods_are_refused_by_their_methods_names(
    registry: Registry, pair: tuple[Entry, Entry], train: Train
) -> None:
    other = train("train.epochs=1", "method.name=bitfit", "name=other").entry
    with pytest.raises(IncompatibleError, match="cannot be averaged") as raised:
        combine_adapters(registry, (pair[0], other), HALF, name="both")
    assert raised.value.why == "one is mwa, the other bitfit"


def test_two_lora_adapters_are_refused_and_one_with_a_merged_version_for_what_that_is(
    registry: Registry, train: Train
) -> None:
    pytest.importorskip("peft")
    options = ("train.epochs=1", "method.name=lora", "method.lora.rank=2")
    one, other = (train(*options, f"train.seed={seed}", f"name=lora-{seed}").entry for seed in (1, 2))
    with pytest.raises(IncompatibleError, match="LoRA adapters cannot be averaged") as raised:
        combine_adapters(registry, (one, other), HALF, name="both")
    assert raised.value.fix == f"merge one of them: mwactl merge {one.reference}"
    merged = merge_adapter(registry, one, name="merged").entry
    with pytest.raises(IncompatibleError, match="merged@1 is no adapter"):
        combine_adapters(registry, (merged, other), HALF, name="both")


def test_adapters_of_another_backbone_are_refused(registry: Registry, pair: tuple[Entry, Entry], train: Train) -> None:
    other = train("train.epochs=1", "backbone.weights=random", "backbone.weights_seed=7", "name=other").entry
    with pytest.raises(IncompatibleError, match="cannot be averaged") as raised:
        combine_adapters(registry, (pair[0], other), HALF, name="both")
    assert str(raised.value.why).startswith("they have another backbone: fingerprint is sha256:")


def test_a_merged_version_cannot_be_averaged(registry: Registry, pair: tuple[Entry, Entry]) -> None:
    merged = merge_adapter(registry, pair[0], name="merged").entry
    with pytest.raises(IncompatibleError, match="merged@1 is no adapter"):
        combine_adapters(registry, (pair[1], merged), HALF, name="both")


def test_a_scaled_adapter_is_evaluated_between_the_backbone_and_the_whole(
    registry: Registry, pair: tuple[Entry, Entry], tiny_data: str, listener
) -> None:
    split = checked_split(tiny_data, "test", on_error="stop", reporter=listener)
    done = combine_adapters(
        registry, pair[:1], Mixture((1.0,), 0.7), name="weaker", split=split, options=OPTIONS, reporter=listener
    )
    assert [row["what"] for row in done.evaluations] == ["strength 0: the bare backbone", "seed-1@2", "weaker@1"]
    attached = registry.attachments(done.entry, "evaluation")
    assert [each["document"]["rsum"] for each in attached] == [done.evaluations[-1]["rsum"]]
    assert registry.attachments(pair[0], "evaluation")[-1]["document"]["rsum"] == done.evaluations[1]["rsum"]


def test_scaling_acts_on_the_average_and_both_ends_are_shown(
    registry: Registry, pair: tuple[Entry, Entry], tiny_data: str, listener
) -> None:
    split = checked_split(tiny_data, "test", on_error="stop", reporter=listener)
    done = combine_adapters(
        registry, pair, Mixture((0.5, 0.5), 0.0), name="nothing", split=split, options=OPTIONS, reporter=listener
    )
    assert [row["what"] for row in done.evaluations] == [
        "strength 0: the bare backbone", "seed-1@2", "seed-2@2", "strength 1: the weighted sum", "nothing@1",
    ]  # fmt: skip
    bare, nothing = done.evaluations[0], done.evaluations[-1]
    assert {key: bare[key] for key in ("rsum", "image_to_text")} == {
        key: nothing[key] for key in ("rsum", "image_to_text")
    }
    both = tensors(registry, done.entry)
    up = [name for name in both if ".up." in name]
    assert up and not any(both[name].any() for name in up)
    assert all(both[name].any() for name in both if name.endswith("down.weight"))
