"""Where the modules attach: a layer that both modalities pass through, written out by hand for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone.contract import Branch, Modality
from mwactl.backbone.packing import Run
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import UsageError
from mwactl_beit3.backbone import Beit3Backbone

Build = Callable[..., Beit3Backbone]
TrainALittle = Callable[[AdaptedModel], None]
Embed = Callable[[Beit3Backbone | AdaptedModel], tuple[Tensor, Tensor]]


def branch(model: AdaptedModel, site: str, kind: str, owner: str) -> Branch:
    """The paper's equation with the trained values of one module."""
    names = ("norm.weight", "norm.bias", "down.weight", "down.bias", "up.weight", "up.bias")
    own = {name: model.get_parameter(f"adapter.sites.{site}.{kind}.{owner}.{name}") for name in names}

    def equation(x: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:], own["norm.weight"], own["norm.bias"], 1e-5)
        return torch.relu(x @ own["down.weight"].T + own["down.bias"]) @ own["up.weight"].T + own["up.bias"]

    return equation


def by_hand(layer: Any, expert: str, heads: int, x: Tensor, extractor: Branch, enhancer: Branch) -> Tensor:
    """One sequence through a layer's own submodules: [n, d] -> [n, d]."""
    attention = layer.self_attn
    z = layer.self_attn_layer_norm[expert](x)
    q, k, v = (getattr(attention, f"{name}_proj")[expert](z).unflatten(-1, (heads, -1)) for name in "qkv")
    shares = (torch.einsum("qhc,khc->hqk", q, k) * q.shape[-1] ** -0.5).softmax(-1)
    mixed = torch.einsum("hqk,khc->qhc", shares, v).flatten(1)
    x1 = x + attention.out_proj[expert](attention.inner_attn_ln[expert](mixed))
    ffn = layer.ffn[expert]
    hidden = ffn.ffn_layernorm(F.gelu(ffn.fc1(layer.final_layer_norm[expert](x1))))
    x2 = x1 + ffn.fc2(hidden) + extractor(x1)
    return x2 + enhancer(x2)


def stream(length: int, seed: int) -> Tensor:
    return torch.randn(length, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def trained(backbone: Beit3Backbone, train_a_little: TrainALittle) -> AdaptedModel:
    model = inject(backbone, MethodConfig(mwa=MwaConfig(knowledge_extractor=8, alignment_enhancer=12)))
    train_a_little(model)
    return model


@pytest.mark.parametrize(("modality", "expert"), [("image", "A"), ("text", "B")])
def test_a_layer_is_the_papers_equation_for_each_modality(
    trained: AdaptedModel, modality: Modality, expert: str
) -> None:
    layer: Any = trained.backbone.model.beit3.encoder.layers[1]  # type: ignore[union-attr]
    extractor = branch(trained, "layer/1", "knowledge_extractor", modality)
    enhancer = branch(trained, "layer/1", "alignment_enhancer", "shared")
    sequences = [stream(length, seed) for seed, length in enumerate((3, 5, 5))]
    runs = (Run(1, (3,)), Run(2, (5,)))
    expected = [by_hand(layer, expert, 4, x, extractor, enhancer) for x in sequences]
    found = layer({modality: torch.cat(sequences)}, runs)
    assert found.keys() == {modality}
    torch.testing.assert_close(found[modality], torch.cat(expected), rtol=0, atol=1e-5)
    first = layer({modality: torch.cat(sequences)}, runs, only_first=True)[modality]
    torch.testing.assert_close(first, torch.stack([x[0] for x in expected]), rtol=0, atol=1e-5)


def test_a_fused_sequence_passes_each_modalitys_own_modules(trained: AdaptedModel) -> None:
    layer: Any = trained.backbone.model.beit3.encoder.layers[0]  # type: ignore[union-attr]
    streams = {"image": stream(4, 0), "text": stream(3, 1)}
    runs = (Run(1, (4, 3)),)
    adapted = layer(streams, runs)
    site = trained.backbone.sites()[0]
    site.detach()
    plain = layer(streams, runs)
    x1 = {}
    site.attach({name: lambda x, name=name: x1.setdefault(name, x) * 0 for name in streams}, {})
    layer(streams, runs)
    for name, without in plain.items():
        x2 = without + branch(trained, "layer/0", "knowledge_extractor", name)(x1[name])
        expected = x2 + branch(trained, "layer/0", "alignment_enhancer", "shared")(x2)
        torch.testing.assert_close(adapted[name], expected, rtol=0, atol=1e-5)


def test_sites_are_layers_through_which_both_modalities_pass(backbone: Beit3Backbone) -> None:
    facts = [(site.name, site.depth, site.width, site.eps, site.modalities) for site in backbone.sites()]
    assert facts == [(f"layer/{depth}", depth, 32, 1e-5, ("image", "text")) for depth in range(2)]
    assert [site.name for site in backbone.sites(["text"])] == ["layer/0", "layer/1"]


def test_the_enhancer_of_a_layer_is_one_module_and_the_extractors_are_two(backbone: Beit3Backbone) -> None:
    model = inject(backbone, MethodConfig())
    assert model.adapter is not None
    assert model.adapter.module_counts() == {"knowledge_extractor": 4, "alignment_enhancer": 2}
    for layer in backbone.model.beit3.encoder.layers:
        assert layer.enhancers["image"] is layer.enhancers["text"]
        assert layer.extractors["image"] is not layer.extractors["text"]
    assert {name.split(".")[4] for name in model.trainable() if "enhancer" in name} == {"shared"}


def test_the_shared_enhancer_learns_from_both_modalities(trained: AdaptedModel, pixels: Tensor) -> None:
    enhancer = trained.get_parameter("adapter.sites.layer/0.alignment_enhancer.shared.up.weight")
    tokens = trained.backbone.tokenize(["a dog", "the cat runs", "two children"])
    image, text = (
        torch.autograd.grad(embeddings.square().sum(), enhancer)[0]
        for embeddings in (trained.encode_image(pixels), trained.encode_text(tokens))
    )
    assert image.any()
    assert text.any()


@pytest.mark.parametrize(("layers", "moved"), [("first 1", ["layer/0"]), ("last 1", ["layer/1"])])
def test_only_the_chosen_layers_are_adapted(backbone: Beit3Backbone, layers: Any, moved: list[str]) -> None:
    model = inject(backbone, MethodConfig(mwa=MwaConfig(layers=layers)))
    assert sorted({name.split(".")[2] for name in model.trainable()}) == moved
    attached = [bool(layer.extractors) for layer in backbone.model.beit3.encoder.layers]
    assert attached == [layers == "first 1", layers == "last 1"]


def test_more_layers_than_there_are_is_a_mistake_of_the_recipe(backbone: Beit3Backbone) -> None:
    with pytest.raises(UsageError, match="more blocks than the image/text tower has"):
        inject(backbone, MethodConfig(mwa=MwaConfig(layers="first 3")))


def test_weights_load_into_an_injected_model(tiny_beit3: Path, build: Build, embed: Embed) -> None:
    donor, model = build(tiny_beit3), inject(build(tiny_beit3, "random", seed=9), MethodConfig())
    assert not any(map(torch.equal, embed(model), embed(donor)))
    model.backbone.load_state_dict(donor.state_dict(), strict=True)
    assert all(map(torch.equal, embed(model), embed(donor)))


# -- in numbers --------------------------------------------------------------------------------------------------------

COUNTS = [
    ({"layer_norm": False}, 4_749_312, 12_662_784),
    ({}, 4_804_608, 12_810_240),
    ({"layer_norm": False, "bias": False}, 4_718_592, 12_582_912),
    ({"bias": False}, 4_773_888, 12_730_368),
    ({"share_enhancer": False, "layer_norm": False}, 7_119_360, 18_981_888),
    ({"share_enhancer": False}, 7_193_088, 19_178_496),
    ({"share_enhancer": False, "layer_norm": False, "bias": False}, 7_077_888, 18_874_368),
    ({"share_enhancer": False, "bias": False}, 7_151_616, 19_070_976),
    ({"alignment_enhancer": 0, "layer_norm": False}, 2_379_264, 6_343_680),
    ({"knowledge_extractor": 0, "layer_norm": False}, 2_370_048, 6_319_104),
]


@pytest.mark.parametrize(("options", "base", "large"), COUNTS, ids=[str(options) for options, *_ in COUNTS])
def test_added_parameters_in_numbers(on_meta: Build, options: dict[str, Any], base: int, large: int) -> None:
    counts = [
        inject(on_meta(name), MethodConfig(mwa=MwaConfig(**options))).trainable_count()
        for name in ("beit3-base", "beit3-large")
    ]
    assert counts == [base, large]


def test_an_injected_model_on_the_meta_device_computes_shapes(on_meta: Build) -> None:
    model = inject(on_meta("beit3-base"), MethodConfig())
    assert model.encode_image(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 768)
    assert model.encode_text(torch.zeros(3, 64, dtype=torch.int64, device="meta")).shape == (3, 768)
    assert isinstance(model.backbone, nn.Module)
