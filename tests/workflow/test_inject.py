from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mwactl.adapter.serialise import from_bytes
from mwactl.backbone import WeightsRequest
from mwactl.config import load_recipe
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.registry import Registry
from mwactl.registry.reference import checked_name
from mwactl.workflow.inject import default_name, inject_adapter, plan_injection
from mwactl.workflow.load import build_backbone

METHOD = MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8))


def inject_tiny(registry: Registry, folder: Path, *, name: str = "tiny-mwa", seed: int = 0, method=METHOD):
    return inject_adapter(
        registry, f"clip:local-dir:{folder}", method, name=name, weights=WeightsRequest(None), seed=seed
    )


def test_an_untrained_adapter_is_published_as_version_1(registry: Registry, tiny_clip: Path):
    injection = inject_tiny(registry, tiny_clip)
    entry = registry.resolve("tiny-mwa")
    assert injection.entry == entry
    assert entry.reference == "tiny-mwa@1"
    manifest = entry.manifest
    assert (manifest["train"], manifest["data"], manifest["metrics"], manifest["parents"]) == (None, [], [], [])
    assert manifest["base"]["fingerprint"] == injection.fingerprint
    assert manifest["tensors"]["parameters"] == injection.model.trainable_count() > 0
    state, _ = from_bytes(registry.read(entry, "adapter.safetensors"), where="")
    mine = injection.model.adapter_state()
    assert state.keys() == mine.keys()
    assert all(torch.equal(state[name], mine[name]) for name in mine)


def test_an_injected_model_computes_what_its_backbone_does(registry: Registry, tiny_clip: Path):
    model = inject_tiny(registry, tiny_clip).model
    backbone = build_backbone(f"clip:local-dir:{tiny_clip}", WeightsRequest(None))
    pixels, tokens = torch.randn(2, 3, 32, 32), backbone.tokenize(["a dog", "two cats"])
    with torch.inference_mode():
        assert torch.equal(model.encode_image(pixels), backbone.encode_image(pixels))
        assert torch.equal(model.encode_text(tokens), backbone.encode_text(tokens))


def test_injecting_the_same_again_gives_the_version_there_is(registry: Registry, tiny_clip: Path):
    first = inject_tiny(registry, tiny_clip).entry
    inject_tiny(registry, tiny_clip, seed=1)
    assert inject_tiny(registry, tiny_clip).entry == first
    assert [entry.reference for entry in registry.entries()] == ["tiny-mwa@2", "tiny-mwa@1"]


def test_another_seed_or_method_is_another_version(registry: Registry, tiny_clip: Path):
    inject_tiny(registry, tiny_clip)
    other = MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=16))
    assert inject_tiny(registry, tiny_clip, seed=1).entry.version == 2
    assert inject_tiny(registry, tiny_clip, method=other).entry.version == 3


def test_another_name_gets_a_version_1_of_its_own(registry: Registry, tiny_clip: Path):
    inject_tiny(registry, tiny_clip)
    assert inject_tiny(registry, tiny_clip, name="other").entry.reference == "other@1"


def test_a_plan_counts_the_same_and_writes_nothing(registry: Registry, tiny_clip: Path, empty_home: Path):
    plan = plan_injection(f"clip:local-dir:{tiny_clip}", METHOD)
    assert not empty_home.exists()
    assert plan.memory is not None
    done = inject_tiny(registry, tiny_clip)
    planned, real = plan.as_dict(), done.as_dict()
    for key in ("trainable_parameters", "sites", "modules", "method"):
        assert planned[key] == real[key]
    assert planned["backbone"]["parameters"] == real["backbone"]["parameters"]


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("clip-vit-b-32", "clip-vit-b-32-mwa"),
        ("clip:ViT-B-32/openai", "clip-vit-b-32-openai-mwa"),
        ("vlmo:local-dir:bad", "bad-mwa"),
        ("clip:local-dir:/models/My Model/", "my-model-mwa"),
        ("clip:local-dir:/models/v1..2", "v1.2-mwa"),
        ("clip:local-dir:/models/模型", "mwa"),
        ("clip:local-dir:/" + "a" * 63 + ".b", "a" * 63),
    ],
)
def test_a_default_name_is_one_that_recipes_and_the_registry_take(backbone: str, name: str, tiny_recipe: Path):
    assert default_name(backbone, "mwa") == name
    assert checked_name(name) == name
    assert load_recipe(str(tiny_recipe), [f"name={name}"]).recipe.name == name
