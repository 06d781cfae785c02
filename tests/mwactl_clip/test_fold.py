"""Merging adapters into CLIP's blocks of every kind: what folds, what stays, and that all of it computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, MergedModel, fold
from mwactl.adapter.fold import FoldedFeedForward
from mwactl.adapter.modules import KnowledgeExtractor
from mwactl_clip.backbone import ClipBackbone

Build = Callable[..., ClipBackbone]
Trained = Callable[..., AdaptedModel]
Rows = tuple[Tensor, Tensor]
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "no layer norm": {"layer_norm": False},
    "authors' code": {"preset": "authors-code", "knowledge_extractor": 8},
    "learned scales, gelu, no bias": {"alpha": "learned", "beta": "learned", "activation": "gelu", "bias": False},
    "last block of the text": {"modalities": ("text",), "layers": "last 1"},
    "no enhancer": {"alignment_enhancer": 0},
    "no extractor": {"knowledge_extractor": 0, "beta": 0.3},
}


def folded_into(merged: MergedModel) -> set[str]:
    """The blocks' FFNs that hold an extractor."""
    found = merged.backbone.named_modules()
    return {name for name, module in found if isinstance(module, FoldedFeedForward) and len(module.parts) == 2}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_merged_model_computes_what_the_adapted_one_does(
    backbone: ClipBackbone, merged_like_adapted: Callable[..., None], options: dict[str, Any]
) -> None:
    merged_like_adapted(backbone, options, padded=1e-4)


def test_without_any_one_of_its_modules_it_computes_something_else(
    backbone: ClipBackbone, every_module_counts: Callable[..., int]
) -> None:
    assert every_module_counts(backbone) > 0


def test_quick_gelu_stays_the_hosts_activation(
    tmp_path: Path, native_folder: Path, build: Build, trained: Trained, embed: Callable[..., Rows],
    difference: Callable[..., float],
) -> None:  # fmt: skip
    document = json.loads((native_folder / "open_clip_config.json").read_text())
    document["model_cfg"]["quick_gelu"] = True
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    weights = safetensors.torch.load_file(native_folder / "open_clip_model.safetensors")
    safetensors.torch.save_file(weights, tmp_path / "open_clip_model.safetensors")
    adapted = trained(build(tmp_path))
    rows = embed(adapted)
    merged = fold(adapted)
    blocks = [module for module in merged.backbone.modules() if isinstance(module, FoldedFeedForward)]
    assert all(isinstance(block.parts[0].activation, open_clip.transformer.QuickGELU) for block in blocks)
    assert difference(merged, rows) <= 1e-5


def test_every_extractor_of_a_pre_ln_tower_is_folded_and_layer_scale_with_it(
    native_folder: Path, build: Build, trained: Trained
) -> None:
    merged = fold(trained(build(native_folder)))
    assert len(folded_into(merged)) == 4
    assert not any(name.endswith("ls_2.gamma") for name in merged.complete_state())
    assert [sentence.split(" stay ")[0] for sentence in merged.kept] == [
        "the Alignment Enhancers of 4 places (image/0 to text/1)"
    ]


def test_an_extractor_with_another_epsilon_than_its_host_stays_a_branch_and_says_why(
    native_folder: Path, build: Build, trained: Trained, embed: Callable[..., Rows], difference: Callable[..., float]
) -> None:
    adapted = trained(build(native_folder), alignment_enhancer=0)
    assert adapted.adapter is not None
    extractor = adapted.adapter.sites["text/1"].get_submodule("knowledge_extractor.text")
    assert isinstance(extractor, KnowledgeExtractor) and isinstance(extractor.norm, nn.LayerNorm)
    extractor.norm.eps = 1e-2
    rows = embed(adapted)
    merged = fold(adapted)
    assert merged.kept == (
        "the Knowledge Extractors of text/1 stay branches beside the FFN: "
        "their LayerNorm has epsilon 0.01, that of the FFN 1e-05",
    )
    assert len(folded_into(merged)) == 3
    assert difference(merged, rows) <= 1e-5


@pytest.mark.parametrize("layer_norm", [True, False], ids=["with layer norm", "without"])
def test_post_ln_blocks_take_extractors_without_a_norm_and_pre_ln_blocks_those_with_one(
    hf_folder: Path, build: Build, trained: Trained, layer_norm: bool
) -> None:
    merged = fold(trained(build(hf_folder), layer_norm=layer_norm, alignment_enhancer=0))
    (why,) = merged.kept
    blocks = folded_into(merged)
    if layer_norm:
        assert blocks == {f"model.visual.transformer.resblocks.{i}.mlp" for i in range(2)}
        assert "(text/0 to text/1)" in why and "normalise what they read" in why
    else:
        assert blocks == {f"model.text.transformer.encoder.layer.{i}.output.dense" for i in range(2)}
        assert "(image/0 to image/1)" in why and "the residual stream as it is" in why


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_without_weights_it_has_the_same_structure_and_with_the_tensors_it_is_the_same_model(
    folder: Path, build: Build, same_structure_without_weights: Callable[..., None], options: dict[str, Any]
) -> None:
    same_structure_without_weights(f"clip:local-dir:{folder}", build(folder), options)


def test_the_towers_of_their_own_class_still_know_their_precision(
    timm_folder: Path, build: Build, trained: Trained
) -> None:
    """open_clip's separate text tower asks its first block's MLP for it."""
    merged = fold(trained(build(timm_folder)))
    assert merged.backbone.get_submodule("model.text.transformer").get_cast_dtype() == torch.float32  # type: ignore[operator]


def test_nothing_of_a_merged_model_asks_for_gradients_or_dropout(
    native_folder: Path, build: Build, trained: Trained
) -> None:
    merged = fold(trained(build(native_folder), dropout=0.5))
    merged.train()
    assert not any(module.training for module in merged.modules())
    assert not any(parameter.requires_grad for parameter in merged.parameters())
