"""Where the modules attach: a block written out by hand, and the counts of the published sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone.contract import Modality
from mwactl.backbone.packing import Run, pack
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl_vlmo.backbone import VlmoBackbone

Build = Callable[..., VlmoBackbone]
TrainALittle = Callable[[AdaptedModel], None]
Embed = Callable[[VlmoBackbone | AdaptedModel], tuple[Tensor, Tensor]]
EXPERT = {"image": "imag", "text": "text"}
MODALITIES: tuple[Modality, ...] = ("image", "text")


def branch(model: AdaptedModel, kind: str, owner: str) -> Callable[[Tensor], Tensor]:
    """The paper's equation 1 with the trained values of one module of block 1."""
    own = {name: model.get_parameter(f"adapter.sites.layer/1.{kind}.{owner}.{name}") for name in (
        "norm.weight", "norm.bias", "down.weight", "down.bias", "up.weight", "up.bias")}  # fmt: skip

    def equation(x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(x, x.shape[-1:], own["norm.weight"], own["norm.bias"], 1e-6)
        return torch.relu(x @ own["down.weight"].T + own["down.bias"]) @ own["up.weight"].T + own["up.bias"]

    return equation


def by_hand(block: Any, x: Tensor, expert: str) -> tuple[Tensor, Tensor]:
    """One sequence [n, d] through a block without position bias: x1, and x2 without an extractor."""
    heads, width = 4, 32
    z = block.norm1(x)
    query, key, value = (z @ weight.T for weight in block.attn.qkv.weight.split(width))
    query, value = query + block.attn.q_bias, value + block.attn.v_bias
    scores = torch.einsum("ahc,bhc->hab", *(rows.view(-1, heads, 8) for rows in (query, key))) * 8**-0.5
    mixed = torch.einsum("hab,bhc->ahc", scores.softmax(-1), value.view(-1, heads, 8)).flatten(1)
    gamma_1, gamma_2 = (1.0, 1.0) if block.gamma_1 is None else (block.gamma_1, block.gamma_2)
    x1 = x + gamma_1 * (mixed @ block.attn.proj.weight.T + block.attn.proj.bias)
    z = getattr(block, f"norm2_{expert}")(x1)
    mlp = getattr(block, f"mlp_{expert}")
    hidden = nn.functional.gelu(z @ mlp.fc1.weight.T + mlp.fc1.bias)
    return x1, x1 + gamma_2 * (hidden @ mlp.fc2.weight.T + mlp.fc2.bias)


@pytest.mark.parametrize("modality", MODALITIES)
@torch.no_grad()
def test_a_block_is_the_papers_equation_with_the_extractor_outside_the_layer_scale(
    backbone: VlmoBackbone, train_a_little: TrainALittle, modality: Modality
) -> None:
    model = inject(backbone, MethodConfig(mwa=MwaConfig(knowledge_extractor=8, alignment_enhancer=12)))
    train_a_little(model)
    block: Any = backbone.model.transformer.blocks[1]
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(5))
    x1, x2 = by_hand(block, x, EXPERT[modality])
    x2 = x2 + branch(model, "knowledge_extractor", modality)(x1)
    expected = x2 + branch(model, "alignment_enhancer", "shared")(x2)
    runs = (Run(1, (5,)),)
    torch.testing.assert_close(block({modality: x}, runs, None)[modality], expected, rtol=1e-5, atol=1e-5)
    first = block({modality: x}, runs, None, only_first=True)[modality]
    torch.testing.assert_close(first, expected[:1], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_in_a_pair_each_token_has_its_own_modalitys_modules(
    backbone: VlmoBackbone, pixels: Tensor, train_a_little: TrainALittle
) -> None:
    text = pack(backbone.tokenize(["a dog", "the cat runs", "two dogs"]), 0)
    before = backbone.model.encode_pairs(pixels, text)
    model = inject(backbone, MethodConfig(mwa=MwaConfig(layers="last 1", share_enhancer=False)))
    train_a_little(model)
    for modality in MODALITIES:
        for kind in ("knowledge_extractor", "alignment_enhancer"):
            up: Any = model.get_submodule(f"adapter.sites.layer/2.{kind}.{modality}.up")
            nn.init.zeros_(up.weight), nn.init.zeros_(up.bias)
        after = backbone.model.encode_pairs(pixels, text)
        assert torch.equal(after[modality], before[modality])
        other: Modality = "text" if modality == "image" else "image"
        assert torch.equal(after[other], before[other]) == (modality == "text")


def test_a_loaded_adapter_computes_as_the_one_that_was_saved(
    tiny_vlmo: Path, build: Build, embed: Embed, train_a_little: TrainALittle
) -> None:
    model, other = (inject(build(tiny_vlmo), MethodConfig(), seed=seed) for seed in (0, 1))
    train_a_little(model)
    other.load_adapter_state(copy.deepcopy(model.adapter_state()))
    assert all(map(torch.equal, embed(other), embed(model)))


def test_sites_are_named_by_depth_and_both_modalities_pass_through_each(backbone: VlmoBackbone) -> None:
    facts = [(site.name, site.depth, site.width, site.eps, site.modalities) for site in backbone.sites()]
    assert facts == [(f"layer/{depth}", depth, 32, 1e-6, ("image", "text")) for depth in range(3)]
    assert len(backbone.sites(["text"])) == 3


@pytest.mark.parametrize(
    ("name", "trained"), [("vlmo-base", 4_749_312), ("vlmo-base-plus-384", 6_729_984), ("vlmo-large-384", 12_662_784)]
)
def test_published_sizes_have_the_papers_modules(on_meta: Build, name: str, trained: int) -> None:
    model = inject(on_meta(name), MethodConfig(mwa=MwaConfig(layer_norm=False)))
    assert model.trainable_count() == trained
    assert model.adapter is not None
    depth = len(model.backbone.sites())
    assert model.adapter.module_counts() == {"knowledge_extractor": 2 * depth, "alignment_enhancer": depth}


def test_an_enhancer_of_each_modality_is_an_option(on_meta: Build) -> None:
    model = inject(on_meta("vlmo-base"), MethodConfig(mwa=MwaConfig(layer_norm=False, share_enhancer=False)))
    assert model.trainable_count() == 7_119_360
