"""Merging adapters into VLMo's blocks: a layer scale that all experts share, and a joint expert that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, fold, inject
from mwactl.backbone import find_spec
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
    backbone: VlmoBackbone, trained: Trained, embed: Callable[..., Rows], difference: Callable[..., float],
    captions: list[str], options: dict[str, Any],
) -> None:  # fmt: skip
    bare = embed(backbone)
    adapted = trained(backbone, **options)
    rows, tokens = embed(adapted), backbone.tokenize(captions)
    padded = adapted.encode_padded_text(tokens)
    merged = fold(adapted)
    assert difference(merged, rows) <= 1e-5
    assert torch.allclose(merged.encode_padded_text(tokens), padded, atol=1e-5)
    assert difference(merged, bare) > 1e-3


def test_without_any_one_of_its_modules_it_computes_something_else(
    backbone: VlmoBackbone, trained: Trained, embed: Callable[..., Rows],
    without_one_module: Callable[..., Iterator[tuple[str, float]]],
) -> None:  # fmt: skip
    adapted = trained(backbone, knowledge_extractor=6, alignment_enhancer=10)
    count = sum(adapted.adapter.module_counts().values()) if adapted.adapter else 0
    rows = embed(adapted)
    found = list(without_one_module(fold(adapted), rows))
    assert len(found) == count == 9
    assert all(difference > 1e-4 for _, difference in found), found


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
    tiny_vlmo: Path, build: Build, trained: Trained, embed: Callable[..., Rows], options: dict[str, Any]
) -> None:
    adapted = trained(build(tiny_vlmo), **options)
    method = adapted.method
    merged = fold(adapted)
    plugin, spec = find_spec(f"vlmo:local-dir:{tiny_vlmo}")
    empty = fold(inject(plugin.build_without_weights(spec), method))
    empty.load_complete_state(merged.complete_state(), where="a test")
    for found, expected in zip(embed(empty), embed(merged), strict=True):
        assert torch.equal(found, expected)
