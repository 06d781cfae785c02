"""Which modules sit at which site, how many numbers they hold, and which enhancer is shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mwactl.adapter import MultiWayAdapter, inject
from mwactl.adapter.modules import AuthorsAlignmentEnhancer, Bottleneck
from mwactl.adapter.mwa import selected_sites
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import ExitCode, IncompatibleError, UsageError

Tiny = Callable[..., Any]
D = 12


def module_size(d: int, m: int, *, bias: bool, layer_norm: bool) -> int:
    return 2 * d * m + (m + d if bias else 0) + (2 * d if layer_norm else 0)


def size(adapter: MultiWayAdapter) -> int:
    return sum(parameter.numel() for parameter in adapter.parameters())


@pytest.mark.parametrize("extractor", [0, 3, 64])
@pytest.mark.parametrize("enhancer", [0, 5, 128])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_parameter_arithmetic(
    tiny: Tiny, extractor: int, enhancer: int, bias: bool, layer_norm: bool, joint: bool, shared: bool
) -> None:
    config = MwaConfig(
        knowledge_extractor=extractor, alignment_enhancer=enhancer, bias=bias, layer_norm=layer_norm,
        share_enhancer=shared,
    )  # fmt: skip
    depth = 3
    adapter = MultiWayAdapter(tiny(depth=depth, joint=joint).sites(), config)
    one_extractor = module_size(D, extractor, bias=bias, layer_norm=layer_norm) if extractor else 0
    one_enhancer = module_size(D, enhancer, bias=bias, layer_norm=layer_norm) if enhancer else 0
    enhancers = depth if joint and shared else 2 * depth
    assert size(adapter) == 2 * depth * one_extractor + enhancers * one_enhancer
    assert adapter.module_counts() == {
        "knowledge_extractor": 2 * depth if extractor else 0,
        "alignment_enhancer": enhancers if enhancer else 0,
    }


def test_learned_scales_are_one_number_a_module(tiny: Tiny) -> None:
    sites = tiny(depth=3).sites()
    learned = MultiWayAdapter(sites, MwaConfig(alpha="learned", beta="learned"))
    assert size(learned) - size(MultiWayAdapter(sites, MwaConfig())) == 4 * 3


def test_parameter_names_depend_on_site_names_alone(tiny: Tiny) -> None:
    config = MwaConfig(knowledge_extractor=2, alignment_enhancer=0, layer_norm=False, bias=False, layers="last 1")
    assert {name for name, _ in MultiWayAdapter(tiny().sites(), config).named_parameters()} == {
        "sites.image/1.knowledge_extractor.image.down.weight",
        "sites.image/1.knowledge_extractor.image.up.weight",
        "sites.text/1.knowledge_extractor.text.down.weight",
        "sites.text/1.knowledge_extractor.text.up.weight",
    }


@pytest.mark.parametrize(
    ("layers", "modalities", "expected"),
    [
        ("all", ("image", "text"), "image/0 image/1 image/2 text/0 text/1 text/2"),
        ("first 1", ("image", "text"), "image/0 text/0"),
        ("last 1", ("image", "text"), "image/2 text/2"),
        ("last 2", ("text",), "text/1 text/2"),
        ("first 2", ("image",), "image/0 image/1"),
        ("first 3", ("image",), "image/0 image/1 image/2"),
    ],
)
def test_layers_and_modalities_choose_the_sites(tiny: Tiny, layers: str, modalities: Any, expected: str) -> None:
    config = MwaConfig(layers=layers, modalities=modalities)
    adapter = MultiWayAdapter(tiny(depth=3).sites(), config)
    assert list(adapter.sites) == expected.split()


@pytest.mark.parametrize("end", ["first", "last"])
def test_more_layers_than_the_tower_has_is_a_usage_error_with_the_largest_number(tiny: Tiny, end: str) -> None:
    with pytest.raises(UsageError) as raised:
        selected_sites(tiny(depth=3).sites(), MwaConfig(layers=f"{end} 4"))
    assert raised.value.exit_code == ExitCode.USAGE
    assert raised.value.fix == f"method.mwa.layers='{end} 3'"


def test_too_many_layers_leave_the_backbone_untouched(tiny: Tiny, pixels: torch.Tensor) -> None:
    backbone = tiny()
    before = backbone.encode_image(pixels)
    with pytest.raises(UsageError):
        inject(backbone, MethodConfig(mwa=MwaConfig(layers="first 9")))
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert torch.equal(backbone.encode_image(pixels), before)


def test_both_modalities_use_the_one_shared_enhancer_and_their_own_extractor(tiny: Tiny) -> None:
    backbone = tiny(joint=True)
    sites = backbone.sites()
    MultiWayAdapter(sites, MwaConfig()).attach_to(backbone)
    for block in backbone.image_blocks:
        assert block.enhancers["image"] is block.enhancers["text"]
        assert block.extractors["image"] is not block.extractors["text"]


def test_unshared_enhancers_are_one_a_modality(tiny: Tiny) -> None:
    backbone = tiny(joint=True)
    sites = backbone.sites()
    MultiWayAdapter(sites, MwaConfig(share_enhancer=False)).attach_to(backbone)
    for block in backbone.image_blocks:
        assert block.enhancers["image"] is not block.enhancers["text"]


def test_one_modality_of_a_joint_block_leaves_the_other_alone(
    tiny: Tiny, pixels: torch.Tensor, tokens: torch.Tensor, train_a_little: Callable[..., None]
) -> None:
    backbone = tiny(joint=True)
    image, text = backbone.encode_image(pixels), backbone.encode_text(tokens)
    model = inject(backbone, MethodConfig(mwa=MwaConfig(modalities=("text",))))
    train_a_little(model)
    assert torch.equal(model.encode_image(pixels), image)
    assert not torch.equal(model.encode_text(tokens), text)
    assert not any("shared" in name or "image" in name for name in model.trainable())


def test_adds_nothing_is_said_of_each_modality(tiny: Tiny) -> None:
    adapter = MultiWayAdapter(tiny().sites(), MwaConfig())
    assert adapter.adds_nothing("image")
    assert adapter.adds_nothing("text")
    torch.nn.init.ones_(adapter.get_parameter("sites.text/0.alignment_enhancer.text.up.bias"))
    assert adapter.adds_nothing("image")
    assert not adapter.adds_nothing("text")


def test_a_shared_enhancer_counts_for_both_modalities(tiny: Tiny) -> None:
    adapter = MultiWayAdapter(tiny(joint=True).sites(), MwaConfig())
    torch.nn.init.ones_(adapter.get_parameter("sites.layer/0.alignment_enhancer.shared.up.bias"))
    assert not adapter.adds_nothing("image")
    assert not adapter.adds_nothing("text")


def test_authors_code_has_no_layer_norm_before_the_extractor_alpha_a_tenth_and_their_enhancer(tiny: Tiny) -> None:
    adapter = MultiWayAdapter(tiny(joint=True, depth=1).sites(), MwaConfig(preset="authors-code"))
    modules: Any = adapter.sites["layer/0"]
    for extractor in modules.knowledge_extractor.values():
        assert isinstance(extractor, Bottleneck)
        assert isinstance(extractor.norm, torch.nn.Identity)
        assert extractor.scale == 0.1
        assert extractor.dropout.p == 0.1
    assert [type(enhancer) for enhancer in modules.alignment_enhancer.values()] == [AuthorsAlignmentEnhancer]
    assert list(modules.alignment_enhancer) == ["shared"]


def test_authors_code_with_its_flags_set_has_a_norm_a_learned_scale_another_size_and_no_enhancer(tiny: Tiny) -> None:
    config = MwaConfig(
        preset="authors-code", knowledge_extractor=3, alignment_enhancer=0, alpha="learned", layer_norm=True,
        dropout=0.0,
    )  # fmt: skip
    adapter = MultiWayAdapter(tiny(joint=True, depth=2).sites(), config)
    assert size(adapter) == 2 * 2 * (module_size(D, 3, bias=True, layer_norm=True) + 1)
    for extractor in adapter.branches("text"):
        assert isinstance(extractor, Bottleneck)
        assert isinstance(extractor.scale, torch.nn.Parameter)
        assert extractor.dropout.p == 0.0


def test_the_authors_enhancer_has_neither_the_extractors_norm_nor_its_dropout(tiny: Tiny) -> None:
    config = MwaConfig(preset="authors-code", knowledge_extractor=0, layer_norm=True, dropout=0.5)
    [enhancer] = MultiWayAdapter(tiny(joint=True, depth=1).sites(), config).branches("image")
    assert {name for name, _ in enhancer.named_parameters()} == {
        f"{part}.{kind}" for part in ("fc1", "norm", "fc2") for kind in ("weight", "bias")
    }
    assert not [module for module in enhancer.modules() if isinstance(module, torch.nn.Dropout)]


def test_modules_take_the_hosts_epsilon(tiny: Tiny) -> None:
    adapter = MultiWayAdapter(tiny().sites(), MwaConfig())
    norms = [module for module in adapter.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 8
    assert {norm.eps for norm in norms} == {1e-6}


def test_towers_of_equal_blocks_can_share_their_enhancers(
    tiny: Tiny, pixels: torch.Tensor, tokens: torch.Tensor, train_a_little: Callable[..., None]
) -> None:
    backbone = tiny()
    image, text = backbone.encode_image(pixels), backbone.encode_text(tokens)
    model = inject(backbone, MethodConfig(mwa=MwaConfig(share_enhancer="towers")))
    for one, other in zip(backbone.image_blocks, backbone.text_blocks, strict=True):
        assert one.enhancers["image"] is other.enhancers["text"]
    assert model.adapter is not None
    assert model.adapter.module_counts() == {"knowledge_extractor": 4, "alignment_enhancer": 2}
    assert model.trainable_count() < inject(tiny(), MethodConfig()).trainable_count()
    train_a_little(model)
    assert not torch.equal(model.encode_image(pixels), image)
    assert not torch.equal(model.encode_text(tokens), text)
    other = inject(tiny(), MethodConfig(mwa=MwaConfig(share_enhancer="towers")), seed=4)
    other.load_adapter_state(model.adapter_state())
    assert torch.equal(other.encode_text(tokens), model.encode_text(tokens))


def test_without_enhancers_there_is_nothing_for_towers_to_share(tiny: Tiny) -> None:
    model = inject(tiny(), MethodConfig(mwa=MwaConfig(share_enhancer="towers", alignment_enhancer=0, layers="last 1")))
    assert model.adapter is not None and model.adapter.module_counts()["alignment_enhancer"] == 0


def test_towers_of_other_blocks_cannot_share(tiny: Tiny) -> None:
    with pytest.raises(IncompatibleError, match="cannot share"):
        inject(tiny(), MethodConfig(mwa=MwaConfig(share_enhancer="towers", modalities=("image",))))
