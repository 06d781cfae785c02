from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mwactl.adapter import AdaptedModel
from mwactl.adapter.mwa import MultiWayAdapter
from mwactl.backbone import WeightsRequest
from mwactl.backbone.fingerprint import tensors_digest
from mwactl.errors import IncompatibleError, NotFoundError, VerificationError
from mwactl.registry import Registry
from mwactl.workflow import train as training
from mwactl.workflow.facts import method_of
from mwactl.workflow.load import build_backbone, load_adapted

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def own_clip(tmp_path: Path, tiny_clip: Path, tiny_recipe: Path) -> Path:
    """The tiny model in a folder of its own, to be changed; the recipe names it."""
    folder = Path(shutil.copytree(tiny_clip, tmp_path / "own-clip"))
    tiny_recipe.write_text(tiny_recipe.read_text().replace(str(tiny_clip), str(folder)))
    return folder


def change_one_weight(file: Path) -> None:
    state = safetensors.torch.load_file(file)
    state["logit_scale"] += 1e-3
    safetensors.torch.save_file(state, file)


@torch.inference_mode()
def embeddings(model: AdaptedModel) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = model.backbone.tokenize(["a dog", "two cats on a mat", "snow"])
    return model.eval().encode_image(pixels), model.encode_text(tokens)


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("method", ["mwa", "head", "full"])
def test_a_published_adapter_computes_what_the_trained_model_did(
    train, registry: Registry, monkeypatch: pytest.MonkeyPatch, method: str
):
    made: list[AdaptedModel] = []
    inject = training.inject
    monkeypatch.setattr(training, "inject", lambda *a, **k: (made.append(inject(*a, **k)), made[-1])[1])
    entry = train(f"method.name={method}", "data.val_split=null", "train.epochs=1").entry
    untrained = inject(build_backbone(made[0].backbone.spec.name, WeightsRequest()), made[0].method)
    loaded = load_adapted(registry, registry.resolve(entry.reference))
    assert not loaded.training
    assert same(embeddings(loaded), embeddings(made[0]))
    assert not same(embeddings(loaded), embeddings(untrained))


def test_the_method_of_a_published_adapter_is_the_recipes(train, registry: Registry):
    entry = train("method.mwa.alpha=learned", "method.mwa.modalities=[text]", "train.epochs=1").entry
    method = method_of(registry.resolve(entry.reference))
    assert (method.name, method.mwa.alpha, method.mwa.modalities) == ("mwa", "learned", ("text",))
    assert (method.mwa.knowledge_extractor, method.mwa.dropout) == (4, 0.2)


def test_method_options_of_a_newer_version_are_refused(train, registry: Registry):
    entry = train("train.epochs=1").entry
    entry.manifest["method"]["config"]["mwa"]["wings"] = 2
    with pytest.raises(IncompatibleError, match="does not know") as caught:
        load_adapted(registry, entry)
    assert "wings" in str(caught.value.why)


def test_another_backbone_is_refused(train, registry: Registry, own_clip: Path):
    entry = train("train.epochs=1").entry
    change_one_weight(own_clip / WEIGHTS)
    with pytest.raises(IncompatibleError, match="was made on another") as caught:
        load_adapted(registry, entry)
    assert caught.value.where == str(own_clip / WEIGHTS)
    assert "--weights" in str(caught.value.fix)


def test_missing_weights_are_named_and_can_be_given(train, registry: Registry, own_clip: Path, tmp_path: Path):
    entry = train("train.epochs=1").entry
    before = embeddings(load_adapted(registry, entry))
    (own_clip / WEIGHTS).rename(tmp_path / "moved.safetensors")
    with pytest.raises(NotFoundError, match="weights") as caught:
        load_adapted(registry, entry)
    assert "--weights FILE" in str(caught.value.fix)
    assert same(embeddings(load_adapted(registry, entry, weights=str(tmp_path / "moved.safetensors"))), before)
    change_one_weight(tmp_path / "moved.safetensors")
    with pytest.raises(IncompatibleError):
        load_adapted(registry, entry, weights=str(tmp_path / "moved.safetensors"))


def test_random_weights_are_made_again_from_their_seed(train, registry: Registry):
    entry = train("backbone.weights=random", "backbone.weights_seed=7", "train.epochs=1").entry
    assert entry.manifest["base"]["weights"]["seed"] == 7
    load_adapted(registry, entry)
    entry.manifest["base"]["weights"]["seed"] = 8
    with pytest.raises(IncompatibleError):
        load_adapted(registry, entry)


def test_a_damaged_blob_is_refused(train, registry: Registry):
    entry = train("train.epochs=1").entry
    digest = next(file["sha256"] for file in entry.manifest["files"] if file["path"] == "adapter.safetensors")
    blob = registry.root / "blobs" / "sha256" / digest[:2] / digest
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(VerificationError):
        load_adapted(registry, entry)


def test_tensors_that_are_not_the_manifests_are_refused(train, registry: Registry):
    entry = train("train.epochs=1").entry
    entry.manifest["tensors"]["digest"] = tensors_digest({})
    with pytest.raises(VerificationError, match="not those of its manifest"):
        load_adapted(registry, entry)


def test_the_manifest_can_be_read_without_torch(train, registry: Registry):
    entry = train("train.epochs=1").entry
    assert json.loads(json.dumps(entry.manifest)) == entry.manifest


def test_an_adapter_that_would_not_be_heard_is_not_loaded(
    registry: Registry, trained_adapter: str, monkeypatch: pytest.MonkeyPatch
):
    assert load_adapted(registry, registry.resolve(trained_adapter))
    monkeypatch.setattr(MultiWayAdapter, "attach_to", lambda *_: None)
    with pytest.raises(VerificationError, match="does not change image embeddings"):
        load_adapted(registry, registry.resolve(trained_adapter))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("method", ["mwa", "lora"])
def test_training_keeping_and_loading_ask_for_no_connection(train, registry: Registry, method: str):
    if method == "lora":
        pytest.importorskip("peft")
    entry = train(f"method.name={method}", "train.epochs=1").entry
    assert load_adapted(registry, registry.resolve(entry.reference)).trainable()
