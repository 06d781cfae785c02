from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mwactl
from mwactl.backbone import WeightsRequest
from mwactl.backbone.contract import unit_rows
from mwactl.data import open_image
from mwactl.errors import ResourceError, VerificationError
from mwactl.evaluate.bootstrap import metric_intervals
from mwactl.evaluate.metrics import direction_metrics
from mwactl.evaluate.protocols import evaluate_embeddings
from mwactl.registry import Entry
from mwactl.workflow import evaluate as evaluation
from mwactl.workflow.evaluate import (
    EvaluationOptions,
    check_unseen,
    evaluate_adapter,
    evaluate_backbone,
)
from mwactl.workflow.load import build_backbone, load_adapted
from mwactl.workflow.splits import CheckedSplit, checked_split
from mwactl.workflow.stored_ranks import RANKS, kept_ranks

OPTIONS = EvaluationOptions(batch_size=3, device="cpu", workers=0)


@pytest.fixture
def split(listener) -> Callable[[str, str], CheckedSplit]:
    return lambda name, split="test": checked_split(name, split, on_error="stop", reporter=listener)


@pytest.fixture
def adapter(train) -> Entry:
    return train("train.epochs=1").entry


@torch.inference_mode()
def by_hand(model, split: CheckedSplit):
    """Every picture and caption encoded alone, with the plain transform."""
    backbone = getattr(model, "backbone", model)
    transform = backbone.image_transform()
    images = [model.encode_image(transform(open_image(path))[None]) for path in split.dataset.images]
    texts = [model.encode_text(backbone.tokenize([caption])) for caption in split.dataset.captions]
    return evaluate_embeddings(
        unit_rows(torch.cat(images)).numpy(), unit_rows(torch.cat(texts)).numpy(), split.dataset.pairs
    ).as_dict()


# -- the numbers ------------------------------------------------------------------------------------------------------


def test_a_backbones_numbers_are_those_of_encoding_one_by_one(tiny_data, tiny_clip, split, listener):
    backbone = build_backbone(f"clip:local-dir:{tiny_clip}", WeightsRequest(None))
    document = evaluate_backbone(backbone, split(tiny_data, "train"), OPTIONS, listener).document
    expected = by_hand(backbone, split(tiny_data, "train"))
    assert {key: document[key] for key in expected} == expected
    assert document["adapter"] is None
    assert document["zero_shot"] is None
    assert document["backbone"]["parameters"] == backbone.count_parameters()


def test_an_adapters_numbers_are_those_of_its_model(adapter, tiny_data, registry, split, listener):
    document = evaluate_adapter(registry, adapter, split(tiny_data), OPTIONS, listener).document
    expected = by_hand(load_adapted(registry, adapter), split(tiny_data))
    assert {key: document[key] for key in expected} == expected
    assert document["adapter"] == {"reference": "tiny-mwa@2", "digest": adapter.digest}


def test_an_adapters_numbers_are_not_its_backbones(train, tiny_data, tiny_clip, registry, split, listener):
    entry = train("train.epochs=6", "data.augment=none", "method.mwa.dropout=0").entry
    adapted = evaluate_adapter(registry, entry, split(tiny_data, "train"), OPTIONS, listener).document
    backbone = build_backbone(f"clip:local-dir:{tiny_clip}", WeightsRequest(None))
    bare = evaluate_backbone(backbone, split(tiny_data, "train"), OPTIONS, listener).document
    assert adapted["backbone"]["fingerprint"] == bare["backbone"]["fingerprint"]
    assert adapted["rsum"] > bare["rsum"] + 20


def test_an_untrained_adapters_numbers_are_its_backbones(adapter, tiny_data, tiny_clip, registry, split, listener):
    untrained = evaluate_adapter(registry, registry.resolve("tiny-mwa@1"), split(tiny_data), OPTIONS, listener).document
    backbone = build_backbone(f"clip:local-dir:{tiny_clip}", WeightsRequest(None))
    bare = evaluate_backbone(backbone, split(tiny_data), OPTIONS, listener).document
    for key in ("image_to_text", "text_to_image", "rsum"):
        assert untrained[key] == bare[key]


def test_the_document_says_what_it_was_computed_on_and_with(adapter, tiny_data, registry, split, listener):
    document = evaluate_adapter(registry, adapter, split(tiny_data), OPTIONS, listener).document
    assert (document["schema"], document["images"], document["texts"]) == (1, 8, 16)
    assert document["protocol"] == "full"
    assert document["precision"] == "fp32"
    assert document["versions"]["mwactl"] == mwactl.__version__
    data = document["data"]
    assert (data["name"], data["split"]) == ("tiny", "test")
    assert (data["images"], data["captions"], data["skipped"]) == (8, 16, 0)
    assert data["digest"] == split(tiny_data).dataset.digest([str(d) for d in split(tiny_data).digests])
    assert document["backbone"]["fingerprint"] == adapter.manifest["base"]["fingerprint"]
    json.dumps(document, allow_nan=False)


def test_the_precision_that_is_said_is_the_one_that_computed(adapter, tiny_data, registry, split, listener):
    options = EvaluationOptions(batch_size=3, device="cpu", precision="auto", workers=0)
    assert evaluate_adapter(registry, adapter, split(tiny_data), options, listener).document["precision"] == "fp32"


def test_an_adapters_result_is_kept_with_its_version(adapter, tiny_data, registry, split, listener):
    document = evaluate_adapter(registry, adapter, split(tiny_data), OPTIONS, listener).document
    [attached] = registry.attachments(adapter, "evaluation")
    assert attached["document"] == document
    evaluate_adapter(registry, adapter, split(tiny_data), OPTIONS, listener)
    assert len(registry.attachments(adapter, "evaluation")) == 1
    assert len(registry.attachments(adapter, RANKS)) == 1
    assert registry.resolve("tiny-mwa@2").digest == adapter.digest


def test_the_rank_of_every_query_is_kept_with_the_version(adapter, tiny_data, registry, split, listener):
    document = evaluate_adapter(registry, adapter, split(tiny_data), OPTIONS, listener).document
    [kept] = kept_ranks(registry, adapter, listener)
    assert kept.digest == document["data"]["digest"]
    assert (kept.data, kept.split, kept.protocol, kept.precision) == ("tiny", "test", "full", "fp32")
    assert document["image_to_text"] == direction_metrics(kept.ranks.image_to_text)
    assert document["text_to_image"] == direction_metrics(kept.ranks.text_to_image)
    assert document["intervals"] == metric_intervals(kept.ranks)


def test_batch_size_does_not_change_the_numbers(tiny_data, tiny_clip, split, listener):
    results = []
    for batch_size in (1, 5, 256):
        backbone = build_backbone(f"clip:local-dir:{tiny_clip}", WeightsRequest(None))
        options = EvaluationOptions(batch_size=batch_size, device="cpu", workers=0)
        results.append(evaluate_backbone(backbone, split(tiny_data), options, listener).document["rsum"])
    assert len(set(results)) == 1


def test_too_little_gpu_memory_is_said_with_a_smaller_batch(tiny_data, tiny_clip, split, listener, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(evaluation, "encode_split", full)
    backbone = build_backbone(f"clip:local-dir:{tiny_clip}", WeightsRequest(None))
    with pytest.raises(ResourceError) as caught:
        evaluate_backbone(backbone, split(tiny_data), EvaluationOptions(batch_size=64, device="cpu"), listener)
    assert "32" in str(caught.value.fix)


# -- zero-shot --------------------------------------------------------------------------------------------------------


@pytest.fixture
def unrelated(tmp_path: Path, add_data, tiny_pictures: Path) -> str:
    """A data set of other pictures."""
    folder = Path(shutil.copytree(tiny_pictures, tmp_path / "unrelated"))
    for path in (folder / "images").iterdir():
        path.write_bytes(path.read_bytes() + b"\n")  # other bytes, the same picture to the eye
    return add_data("unrelated", folder)


def test_data_of_the_same_name_is_not_zero_shot(adapter, tiny_data, registry, split):
    with pytest.raises(VerificationError, match="tiny-mwa@2 is not zero-shot on tiny") as caught:
        check_unseen(registry, adapter, split(tiny_data))
    assert caught.value.why == "it was trained on tiny"
    assert caught.value.fix == "mwactl eval tiny-mwa@2 --data tiny"


def test_training_pictures_under_another_name_are_counted(
    adapter, registry, split, add_data, copied_pictures: Path, resplit
):
    seen = {"train-00.png": "test", "train-11.png": "test", "val-03.png": "test"}
    resplit(copied_pictures, seen | {"test-00.png": "test", "test-01.png": "test"})
    (copied_pictures / "images" / "train-00.png").rename(copied_pictures / "images" / "renamed.png")
    document = (copied_pictures / "dataset.json").read_text().replace("train-00.png", "renamed.png")
    (copied_pictures / "dataset.json").write_text(document)
    other = split(add_data("holiday", copied_pictures))
    with pytest.raises(VerificationError, match="not zero-shot on holiday") as caught:
        check_unseen(registry, adapter, other)
    assert caught.value.why == "3 of the 5 pictures of its test split are in the training data"


def test_other_pictures_are_zero_shot(adapter, unrelated, registry, split, listener):
    document = evaluate_adapter(registry, adapter, split(unrelated), OPTIONS, listener, zero_shot=True).document
    assert document["zero_shot"] is True


def test_what_an_ancestor_was_trained_on_counts(adapter, unrelated, tiny_data, registry, split):
    facts = {key: adapter.manifest[key] for key in ("method", "base", "tensors")}
    child = registry.publish(
        "child", kind="adapter", files={"adapter.safetensors": registry.read(adapter, "adapter.safetensors")},
        facts={**facts, "data": [{"name": "something-else"}]}, parents=[adapter.digest], verb="train",
    )  # fmt: skip
    with pytest.raises(VerificationError, match="child@1 is not zero-shot on tiny"):
        check_unseen(registry, child, split(tiny_data))
    check_unseen(registry, child, split(unrelated))


def test_an_ancestors_pictures_count_under_another_name(
    adapter, registry, split, add_data, copied_pictures: Path, resplit
):
    resplit(copied_pictures, {"train-00.png": "test"})
    child = registry.publish("child", kind="adapter", files={}, facts={"data": []}, parents=[adapter.digest], verb="x")
    with pytest.raises(VerificationError) as caught:
        check_unseen(registry, child, split(add_data("holiday", copied_pictures)))
    assert caught.value.why == "1 of the 1 pictures of its test split are in the training data"


def test_with_a_missing_ancestor_nothing_is_claimed(adapter, unrelated, registry, split):
    orphan = registry.publish("orphan", kind="adapter", files={}, facts={"data": []}, parents=["ab" * 32], verb="x")
    with pytest.raises(VerificationError, match="cannot be checked") as caught:
        check_unseen(registry, orphan, split(unrelated))
    assert "abababababab" in str(caught.value.why)


def test_a_refused_claim_computes_and_attaches_nothing(adapter, tiny_data, registry, split, listener, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate_model", None)
    with pytest.raises(VerificationError):
        evaluate_adapter(registry, adapter, split(tiny_data), OPTIONS, listener, zero_shot=True)
    assert registry.attachments(adapter, "evaluation") == []
