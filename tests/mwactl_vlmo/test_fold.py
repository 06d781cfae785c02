"""Merging adapters into VLMo's blocks: a layer scale that all experts share, and a joint expert that stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, fold
from mwactl_vlmo.backbone import VlmoBackbone

Build = Callable[..., VlmoBackbone]
Trained = Callable[..., AdaptedModel]
Rows = tuple[Tensor, Tensor]
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "no layer norm": {"layer_norm": False},
    "authors' code": {"preset": "authors-code", "knowledge_extractor": 8},
    "an enhancer each, learned scales, gelu": {
        "share_enhancer": False, "alpha": "learned", "beta": "learned", "activation": "gelu", "bias": False,
    },
    "text of the first two": {"modalities": ("text",), "layers": "first 2"},
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_merged_model_computes_what_the_adapted_one_does(
    backbone: VlmoBackbone, merged_like_adapted: Callable[..., None], options: dict[str, Any]
) -> None:
    merged_like_adapted(backbone, options)


def test_without_any_one_of_its_modules_it_computes_something_else(
    backbone: VlmoBackbone, every_module_counts: Callable[..., int]
) -> None:
    assert every_module_counts(backbone) == 9


@pytest.mark.parametrize("kind", ["relative"])
def test_a_block_without_any_other_expert_loses_its_layer_scale_and_the_others_keep_it(
    backbone: VlmoBackbone, trained: Trained
) -> None:
    merged = fold(trained(backbone))
    scales = {name for name in merged.complete_state() if name.endswith("gamma_2")}
    assert scales == {"backbone.model.transformer.blocks.2.gamma_2"}


@pytest.mark.parametrize("kind", ["relative"])
def test_what_was_not_folded_is_still_scaled(
    backbone: VlmoBackbone, trained: Trained, embed: Callable[..., Rows], pixels: Tensor
) -> None:
    """The picture expert of a block whose text expert is folded, and the joint expert of one where both are."""
    pictures = embed(backbone)[0]
    with torch.inference_mode():
        joint = backbone.model.encode_pictures(pixels, joint=True)
        merged = fold(trained(backbone, modalities=("text",)))
        assert torch.equal(merged.encode_image(pixels), pictures)
        assert torch.equal(backbone.model.encode_pictures(pixels, joint=True), joint)
        block = backbone.model.transformer.blocks[2]
        rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
        expected = rows + block.gamma_2 * block.mlp_vl(block.norm2_vl(rows))
        assert torch.allclose(
            block.after_attention("text", rows, joint=True), expected + enhanced(block, expected), atol=1e-6
        )


def enhanced(block: Any, rows: Tensor) -> Tensor:
    enhancer = block.enhancers["text"]
    assert isinstance(enhancer, nn.Module)
    added: Tensor = enhancer(rows)
    return added


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_without_weights_it_has_the_same_structure_and_with_the_tensors_it_is_the_same_model(
    tiny_vlmo: Path, build: Build, same_structure_without_weights: Callable[..., None], options: dict[str, Any]
) -> None:
    same_structure_without_weights(f"vlmo:local-dir:{tiny_vlmo}", build(tiny_vlmo), options)
