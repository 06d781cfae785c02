from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel, MergedModel, check_active, fold, folded_structure, inject, strip
from mwactl.backbone import find_spec
from mwactl.backbone.contract import Backbone
from mwactl.backbone.precision import autocast, hold_frozen
from mwactl.bench.batch import synthetic_batch
from mwactl.bench.contestant import build_backbone, known_family
from mwactl.bench.setup import Setup
from mwactl.config.recipe import LoraConfig, MethodConfig
from mwactl.errors import IncompatibleError, UsageError, VerificationError

pytest.importorskip("peft")
FAMILIES = ["beit3", "vlmo", "clip"]


def lora(**options) -> MethodConfig:
    return MethodConfig(name="lora", lora=LoraConfig(rank=4, **options))


@pytest.fixture
def backbone_of(tiny_backbones: dict[str, str]) -> Callable[[str], Backbone]:
    return lambda family: build_backbone(Setup(tiny_backbones[family], device="cpu"))


def rows(model: Backbone | AdaptedModel | MergedModel) -> Tensor:
    """Pictures and captions, [2 b, e]."""
    backbone = model if isinstance(model, Backbone) else model.backbone
    batch = synthetic_batch(backbone, known_family(backbone), size=3, captions=1, seed=0)
    return torch.cat([model.encode_image(batch.pixels), model.encode_text(batch.tokens[:, 0])])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_the_backbone_learns_everywhere_and_can_be_taken_off(family, backbone_of, train_a_little):
    backbone = backbone_of(family)
    names = list(backbone.state_dict())
    with torch.no_grad():  # with gradients torch takes another path, with other last bits
        before = rows(backbone)
        model = inject(backbone, lora())
        assert list(backbone.state_dict()) == names
        assert torch.equal(rows(model), before)
    assert model.adapter is not None and model.adapter.adds_nothing("image")
    train_a_little(model)
    assert model.train().adapter.training and not model.backbone.training
    rows(model).square().sum().backward()
    assert model.trainable()
    for name, parameter in model.trainable().items():
        assert ".lora_" in name and parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        assert torch.equal(rows(strip(model)), before)


def test_after_loading_it_is_checked_that_every_layer_is_called(backbone_of, train_a_little):
    model = inject(backbone_of("clip"), lora())
    train_a_little(model)
    assert check_active(model) > 0
    model.backbone.model.visual.transformer.resblocks[0].mlp.c_fc.__dict__.pop("forward")
    with pytest.raises(VerificationError, match="parts of it") as raised:
        check_active(model)
    assert raised.value.why.startswith("1 of its ")


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_it_is_the_backbone_with_other_weights(family, backbone_of, train_a_little, tiny_backbones, monkeypatch):
    model = inject(backbone_of(family), lora(alpha=2.0))
    names = [name for name, _ in model.backbone.named_parameters()]
    train_a_little(model)
    expected, untrained = rows(model).detach(), rows(backbone_of(family))
    merged = fold(model)
    torch.testing.assert_close(rows(merged), expected, rtol=1e-4, atol=1e-5)
    assert (rows(merged) - untrained).abs().max() > 1e-2
    assert [name for name, _ in merged.backbone.named_parameters()] == names
    assert not merged.kept
    monkeypatch.setitem(sys.modules, "peft", None)
    plugin, spec = find_spec(tiny_backbones[family])
    structure = folded_structure(plugin.build_without_weights(spec), lora(alpha=2.0))
    assert list(structure.complete_state()) == list(merged.complete_state())


def test_its_tensors_are_loaded_into_another_model(backbone_of, train_a_little):
    trained, other = inject(backbone_of("beit3"), lora()), inject(backbone_of("beit3"), lora(), seed=5)
    train_a_little(trained)
    other.load_adapter_state(trained.adapter_state())
    assert torch.equal(rows(other), rows(trained))


def test_the_seed_decides_and_global_draws_are_left_alone(backbone_of):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, same, other = (inject(backbone_of("clip"), lora(), seed=seed).adapter_state() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_frozen_weights_may_be_held_in_bf16(backbone_of, train_a_little):
    model = inject(backbone_of("beit3"), lora())
    train_a_little(model)
    expected = rows(model).detach()
    hold_frozen(model.backbone, "bf16")
    with autocast(torch.device("cpu"), "bf16"):
        found = rows(model).float()
    found.sum().backward()
    assert all(parameter.dtype == torch.float32 for parameter in model.trainable().values())
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99


def test_targets_choose_the_maps(backbone_of):
    def count(targets: str) -> int:
        adapter = inject(backbone_of("beit3"), lora(targets=targets)).adapter
        assert adapter is not None
        return adapter.module_counts()["lora"]

    assert (count("ffn"), count("attention"), count("all")) == (8, 16, 24)  # 2 layers, 2 experts, 2 and 4 maps


def test_packed_attention_is_refused_where_nothing_else_is_asked_for(backbone_of):
    backbone = backbone_of("clip")
    with pytest.raises(IncompatibleError, match="no linear map"):
        inject(backbone, lora(targets="attention"))


def test_a_tower_without_such_maps_is_named_and_the_other_is_not_adapted_alone(backbone_of, monkeypatch):
    backbone = backbone_of("clip")
    of_pictures = type(backbone.sites()[0]).feed_forward
    monkeypatch.setattr(
        type(backbone.sites()[0]), "feed_forward", lambda site, m: of_pictures(site, m) if m == "image" else None
    )
    with pytest.raises(IncompatibleError, match="no linear map to attach to in the text tower") as raised:
        inject(backbone, lora(targets="ffn"))
    assert raised.value.fix == "method.lora.targets=all, or method.name=mwa"
    with pytest.raises(IncompatibleError) as raised:
        inject(backbone, lora())
    assert raised.value.fix == "method.name=mwa"


def test_it_says_how_many_maps_each_tower_has(backbone_of):
    adapter = inject(backbone_of("clip"), lora(targets="ffn")).adapter
    assert adapter is not None
    assert adapter.description() == "LoRA of rank 4 on 8 linear maps (4 for pictures, 4 for captions)"


def test_a_rank_that_a_map_cannot_have_is_refused_with_the_largest_possible(backbone_of):
    backbone = backbone_of("beit3")
    width = backbone.sites()[0].width
    with pytest.raises(UsageError, match=f"rank={width + 1} is more") as raised:
        inject(backbone, MethodConfig(name="lora", lora=LoraConfig(rank=width + 1)))
    assert raised.value.fix == f"method.lora.rank={width}, or less"
    inject(backbone, MethodConfig(name="lora", lora=LoraConfig(rank=width)))


def test_without_peft_the_package_is_named(backbone_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match="needs the package peft") as raised:
        inject(backbone_of("clip"), lora())
    assert raised.value.fix == "pip install 'mwactl[lora]'"
