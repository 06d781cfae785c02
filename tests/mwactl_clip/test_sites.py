"""Where the modules attach: each host's block, written out by hand on its own submodules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, check_active, inject, strip
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import ExitCode, IncompatibleError, UsageError
from mwactl_clip.backbone import ClipBackbone

Build = Callable[..., ClipBackbone]
TrainALittle = Callable[[AdaptedModel], None]
Embed = Callable[[ClipBackbone | AdaptedModel], tuple[Tensor, Tensor]]


def branch(model: AdaptedModel, site: str, kind: str) -> Callable[[Tensor], Tensor]:
    """The paper's equation with the trained values of one module."""
    tower = site.partition("/")[0]
    own = {name: model.get_parameter(f"adapter.sites.{site}.{kind}.{tower}.{name}") for name in (
        "norm.weight", "norm.bias", "down.weight", "down.bias", "up.weight", "up.bias")}  # fmt: skip
    eps = next(found.eps for found in model.backbone.sites() if found.name == site)

    def equation(x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(x, x.shape[-1:], own["norm.weight"], own["norm.bias"], eps)
        return torch.relu(x @ own["down.weight"].T + own["down.bias"]) @ own["up.weight"].T + own["up.bias"]

    return equation


def trained(backbone: ClipBackbone, train_a_little: TrainALittle) -> AdaptedModel:
    model = inject(backbone, MethodConfig(mwa=MwaConfig(knowledge_extractor=8, alignment_enhancer=12)))
    train_a_little(model)
    return model


def stream(length: int, width: int) -> Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("tower", ["image", "text"])
def test_open_clip_block_is_the_papers_equation(
    native_folder: Path, build: Build, train_a_little: TrainALittle, tower: str
) -> None:
    model = trained(build(native_folder), train_a_little)
    clip = model.backbone.model
    block = (clip.visual if tower == "image" else clip).transformer.resblocks[1]
    mask = None if tower == "image" else clip.attn_mask[:5, :5]
    extractor, enhancer = (branch(model, f"{tower}/1", kind) for kind in ("knowledge_extractor", "alignment_enhancer"))
    x = stream(5, 32)
    z = block.ln_1(x)
    x1 = x + block.ls_1(block.attn(z, z, z, need_weights=False, attn_mask=mask)[0])
    x2 = x1 + block.ls_2(block.mlp(block.ln_2(x1))) + extractor(x1)
    torch.testing.assert_close(block(x, attn_mask=mask), x2 + enhancer(x2))
    # As open_clip calls it for gradient checkpointing.
    torch.testing.assert_close(block(x, None, None, mask), x2 + enhancer(x2))


def test_timm_block_is_the_papers_equation(timm_folder: Path, build: Build, train_a_little: TrainALittle) -> None:
    model = trained(build(timm_folder), train_a_little)
    block = model.backbone.model.visual.trunk.blocks[3]
    extractor, enhancer = (branch(model, "image/3", kind) for kind in ("knowledge_extractor", "alignment_enhancer"))
    x = stream(5, 64)
    x1 = x + block.attn(block.norm1(x))
    x2 = x1 + block.mlp(block.norm2(x1)) + extractor(x1)
    torch.testing.assert_close(block(x), x2 + enhancer(x2))
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
    x1 = x + block.attn(block.norm1(x), attn_mask=mask)
    x2 = x1 + block.mlp(block.norm2(x1)) + extractor(x1)
    torch.testing.assert_close(block(x, attn_mask=mask), x2 + enhancer(x2))


def test_bert_layer_takes_the_extractor_into_the_residual_sum_before_its_norm(
    hf_folder: Path, build: Build, train_a_little: TrainALittle
) -> None:
    model = trained(build(hf_folder), train_a_little)
    layer = model.backbone.model.text.transformer.encoder.layer[1]
    extractor, enhancer = (branch(model, "text/1", kind) for kind in ("knowledge_extractor", "alignment_enhancer"))
    x = stream(5, 32)
    x1 = layer.attention(x)[0]
    x2 = layer.output.LayerNorm(layer.output.dense(layer.intermediate(x1)) + x1 + extractor(x1))
    torch.testing.assert_close(layer(x), x2 + enhancer(x2))


@pytest.mark.parametrize("left_out", ["knowledge_extractor", "alignment_enhancer"])
def test_either_module_alone_changes_both_embeddings(
    backbone: ClipBackbone, embed: Embed, train_a_little: TrainALittle, left_out: str
) -> None:
    image, text = embed(backbone)
    model = inject(backbone, MethodConfig(mwa=MwaConfig(**{left_out: 0})))  # type: ignore[arg-type]
    train_a_little(model)
    for changed, before in zip(embed(model), (image, text), strict=True):
        assert not torch.allclose(changed, before, atol=1e-3)


def test_untrained_injection_changes_no_bit_of_any_host(backbone: ClipBackbone, embed: Embed) -> None:
    image, text = embed(backbone)
    model = inject(backbone, MethodConfig())
    injected_image, injected_text = embed(model)
    assert torch.equal(injected_image, image)
    assert torch.equal(injected_text, text)
    assert check_active(model) == 0.0


def test_strip_gives_every_host_back_after_training(
    backbone: ClipBackbone, embed: Embed, train_a_little: TrainALittle
) -> None:
    image, text = embed(backbone)
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = inject(backbone, MethodConfig())
    assert list(backbone.state_dict()) == list(state)
    train_a_little(model)
    assert check_active(model) > 1e-3
    stripped = strip(model)
    assert stripped is backbone
    stripped_image, stripped_text = embed(backbone)
    assert torch.equal(stripped_image, image)
    assert torch.equal(stripped_text, text)
    assert list(stripped.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in stripped.state_dict().items())
    assert not any("forward" in vars(module) for module in stripped.modules())


def test_weights_load_into_an_injected_host(folder: Path, build: Build, embed: Embed) -> None:
    donor, model = build(folder), inject(build(folder, "random", seed=9), MethodConfig())
    assert not any(map(torch.equal, embed(model), embed(donor)))
    model.backbone.load_state_dict(donor.state_dict(), strict=True)
    assert all(map(torch.equal, embed(model), embed(donor)))


def test_sites_are_named_by_tower_and_depth_and_know_their_width(backbone: ClipBackbone, folder: Path) -> None:
    image_depth, image_width, image_eps = (6, 64, 1e-6) if folder.name.startswith("timm") else (2, 32, 1e-5)
    text_eps = 1e-12 if folder.name.startswith("hf") else 1e-5
    assert [(site.name, site.depth, site.width, site.eps) for site in backbone.sites()] == [
        *((f"image/{depth}", depth, image_width, image_eps) for depth in range(image_depth)),
        *((f"text/{depth}", depth, 32, text_eps) for depth in range(2)),
    ]
    assert {site.modalities for site in backbone.sites(["text"])} == {("text",)}


@pytest.mark.parametrize("modality", ["image", "text"])
def test_one_tower_alone_leaves_the_other_as_it_is(
    backbone: ClipBackbone, embed: Embed, train_a_little: TrainALittle, modality: Any
) -> None:
    image, text = embed(backbone)
    model = inject(backbone, MethodConfig(mwa=MwaConfig(modalities=(modality,))))
    train_a_little(model)
    adapted_image, adapted_text = embed(model)
    assert torch.equal(adapted_image, image) == (modality == "text")
    assert torch.equal(adapted_text, text) == (modality == "image")


@pytest.mark.parametrize(("method", "steady"), [("mwa", True), ("head", True), ("full", False)])
def test_berts_dropout_is_off_in_a_frozen_backbone_and_on_when_all_is_trained(
    hf_folder: Path, build: Build, captions: list[str], method: Any, steady: bool
) -> None:
    backbone = build(hf_folder)
    tokens = backbone.tokenize(captions)
    model = inject(backbone, MethodConfig(name=method)).train()
    assert torch.equal(model.encode_text(tokens), model.encode_text(tokens)) == steady


def test_heads_are_the_projections_and_the_temperature(backbone: ClipBackbone, folder: Path) -> None:
    image, text = {
        "native": ("visual.proj", "text_projection"),
        "timm": ("visual.head.proj.weight", "text.text_projection"),
        "hf": ("visual.proj", "text.proj.weight"),
    }[folder.name.rstrip("0123456789")]
    model = inject(backbone, MethodConfig(name="head"))
    assert set(model.trainable()) == {f"backbone.model.{name}" for name in (image, text, "logit_scale")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("clip:RN50", "it is a ModifiedResNet"),
        ("clip:convnext_base", "it is a ConvNeXt"),
        ("clip:MobileCLIP-S1", "it is a FastVit"),
    ],
)
def test_a_tower_without_host_blocks_is_refused_before_anything_is_touched(
    on_meta: Build, name: str, kind: str
) -> None:
    backbone = on_meta(name).requires_grad_(True)
    with pytest.raises(IncompatibleError, match="the image tower has no transformer block") as raised:
        inject(backbone, MethodConfig())
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert (raised.value.why or "").startswith(kind)
    assert "--modalities text" in (raised.value.fix or "")
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert not any("forward" in vars(module) for module in backbone.modules())
    model = inject(backbone, MethodConfig(mwa=MwaConfig(modalities=("text",))))
    assert {name.split("/")[0] for name in model.trainable()} == {"adapter.sites.text"}


def test_clip_vit_b_32_in_numbers(on_meta: Build) -> None:
    backbone = on_meta("clip-vit-b-32")
    assert backbone.count_parameters() == 151_277_313
    assert len(backbone.sites()) == 24
    model = inject(backbone, MethodConfig())
    assert model.trainable_count() == 5_995_008
    plain = inject(on_meta("clip-vit-b-32"), MethodConfig(mwa=MwaConfig(layer_norm=False)))
    assert plain.trainable_count() == 3_559_680 + 2_373_888


def test_clip_vit_l_14_in_numbers(on_meta: Build) -> None:
    backbone = on_meta("clip-vit-l-14")
    assert backbone.count_parameters() == 427_616_513
    assert len(backbone.sites()) == 24 + 12
    model = inject(backbone, MethodConfig())
    assert model.trainable_count() == sum(
        depth * (2 * width * middle + middle + width + 2 * width)
        for depth, width in ((24, 1024), (12, 768))
        for middle in (64, 128)
    )
    assert model.encode_image(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 768)
    assert model.encode_text(torch.zeros(3, 77, dtype=torch.int64, device="meta")).shape == (3, 768)


def test_siglip_in_numbers(on_meta: Build) -> None:
    backbone = on_meta("siglip-vit-b-16")
    assert backbone.count_parameters() == 203_155_970
    assert backbone.logit_bias is not None
    assert inject(backbone, MethodConfig(mwa=MwaConfig(layer_norm=False))).trainable_count() == 7_119_360


def test_more_layers_than_the_shorter_tower_has_name_that_tower(on_meta: Build) -> None:
    with pytest.raises(UsageError, match="the text tower has") as raised:
        inject(on_meta("clip-vit-l-14"), MethodConfig(mwa=MwaConfig(layers="first 13")))
    assert raised.value.why == "it has 12"
