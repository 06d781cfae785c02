from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone import find_spec
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.train.memory import estimate_memory

MWA = MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8))


def on_meta(folder: Path, method: MethodConfig) -> AdaptedModel:
    plugin, spec = find_spec(f"clip:local-dir:{folder}")
    return inject(plugin.build_without_weights(spec), method)


def test_weights_and_optimiser_are_counted(tiny_clip: Path):
    model = on_meta(tiny_clip, MWA)
    estimate = estimate_memory(model)
    adapter = model.trainable_count()
    assert estimate.gradients_and_optimiser == 3 * 4 * adapter
    assert estimate_memory(model, averaged=True).total(0) - estimate.total(0) == 4 * adapter
    assert estimate.adapter == 4 * adapter
    numbers = model.backbone.count_parameters() + 16 * 16  # and the causal mask
    assert estimate.weights == pytest.approx(4 * numbers, abs=4 * 16 * 16)


def test_a_batch_costs_what_its_pairs_cost(tiny_clip: Path):
    estimate = estimate_memory(on_meta(tiny_clip, MWA))
    assert estimate.activations_per_pair > 0
    assert estimate.total(64) - estimate.total(32) == 32 * estimate.activations_per_pair
    fixed = estimate.weights + estimate.adapter + estimate.gradients_and_optimiser
    assert estimate.total(0) == fixed + estimate.activations_per_batch
    assert estimate.as_dict()["total_at_batch"]["256"] == estimate.total(256)


def test_a_micro_batch_costs_what_the_larger_towers_chunk_costs_and_the_embeddings(tiny_clip: Path):
    estimate = estimate_memory(on_meta(tiny_clip, MWA))
    fixed = estimate.total(0)
    largest = max(estimate.activations_per_picture, estimate.activations_per_caption)
    assert estimate.embedding == 2 * 4 * 16
    assert estimate.total(64, micro_batch=16) == fixed + 16 * largest + 128 * estimate.embedding
    assert estimate.total(64, micro_batch=64) == estimate.total(64, micro_batch=100) == estimate.total(64)


def test_captions_of_one_picture_cost_no_further_picture(tiny_clip: Path):
    estimate = estimate_memory(on_meta(tiny_clip, MWA))
    activations = 12 * estimate.activations_per_picture + 60 * estimate.activations_per_caption
    assert estimate.total(60, captions_per_image=5) == estimate.total(0) + activations
    parts = estimate.total(60, captions_per_image=5, micro_batch=20)
    chunk = max(12 * estimate.activations_per_picture, 20 * estimate.activations_per_caption)
    assert parts == estimate.total(0) + chunk + 72 * estimate.embedding


def test_activations_are_about_what_a_real_step_keeps(tiny_clip: Path):
    method = MethodConfig(name="full")
    estimate = estimate_memory(on_meta(tiny_clip, method))
    plugin, spec = find_spec(f"clip:local-dir:{tiny_clip}")
    from mwactl.backbone import WeightsRequest

    model = inject(plugin.build(spec, WeightsRequest("random")), method)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.randint(1, 400, (8, 16))
    tokens[:, -1] = 49407  # captions of full length
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model.encode_image(torch.randn(8, 3, 32, 32)), model.encode_text(tokens)
        real = sum(kept.values()) / 8
    assert len(outputs) == 2
    assert estimate.activations_per_pair == pytest.approx(real, rel=0.3)


def test_estimating_changes_nothing_about_the_model(tiny_clip: Path):
    model = on_meta(tiny_clip, MWA)
    assert not model.training
    estimate_memory(model)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
