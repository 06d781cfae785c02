"""Merging adapters into BEiT-3's layers: two experts, sub-LN, and one enhancer for both modalities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel, fold
from mwactl.adapter.fold import FoldedFeedForward
from mwactl_beit3.backbone import Beit3Backbone

Build = Callable[..., Beit3Backbone]
Trained = Callable[..., AdaptedModel]
Rows = tuple[Tensor, Tensor]
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "no layer norm": {"layer_norm": False},
    "authors' code": {"preset": "authors-code", "knowledge_extractor": 8},
    "authors' code with layer norm": {"preset": "authors-code", "knowledge_extractor": 8, "layer_norm": True},
    "an enhancer each, learned scales, gelu": {
        "share_enhancer": False, "alpha": "learned", "beta": "learned", "activation": "gelu", "bias": False,
    },
    "pictures alone": {"modalities": ("image",)},
    "the text of the last layer": {"modalities": ("text",), "layers": "last 1"},
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_merged_model_computes_what_the_adapted_one_does(
    backbone: Beit3Backbone, merged_like_adapted: Callable[..., None], options: dict[str, Any]
) -> None:
    merged_like_adapted(backbone, options)


def test_in_double_precision_the_two_are_equal_to_twelve_digits(
    backbone: Beit3Backbone, trained: Trained, pixels: Tensor
) -> None:
    adapted = trained(backbone).double()
    with torch.inference_mode():
        expected = adapted.encode_image(pixels.double())
        found = fold(adapted).encode_image(pixels.double())
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def test_without_any_one_of_its_modules_it_computes_something_else(
    backbone: Beit3Backbone, every_module_counts: Callable[..., int]
) -> None:
    assert every_module_counts(backbone) == 6


def test_every_expert_takes_its_extractor_and_the_shared_enhancer_stays_one(
    backbone: Beit3Backbone, trained: Trained
) -> None:
    merged = fold(trained(backbone))
    blocks = [module for module in merged.backbone.modules() if isinstance(module, FoldedFeedForward)]
    assert [[part.units for part in block.parts] for block in blocks] == [[48, 64]] * 4
    assert all(block.parts[0].inner_eps == 1e-5 and block.parts[1].inner_eps is None for block in blocks)
    assert {name.split(".")[3] for name in merged.complete_state() if name.startswith("branches.")} == {"shared"}
    assert merged.kept == (
        "the Alignment Enhancers of 2 places (layer/0 to layer/1) stay layers of their own: "
        "each reads what its block has finished",
    )


def test_experts_without_an_extractor_stay_as_they_are(backbone: Beit3Backbone, trained: Trained) -> None:
    before = backbone.state_dict()
    merged = fold(trained(backbone, modalities=("image",)))
    after = merged.backbone.state_dict()
    text = [name for name in before if ".B." in name]
    assert text and all(torch.equal(before[name], after[name]) for name in text)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_without_weights_it_has_the_same_structure_and_with_the_tensors_it_is_the_same_model(
    tiny_beit3: Path, build: Build, same_structure_without_weights: Callable[..., None], options: dict[str, Any]
) -> None:
    same_structure_without_weights(f"beit3:local-dir:{tiny_beit3}", build(tiny_beit3), options)
