"""A backbone is part of one adapted model at a time: of two, the first would train modules that nothing calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mwactl.adapter import inject, strip
from mwactl.bench.contestant import build_backbone
from mwactl.bench.setup import Setup
from mwactl.config.recipe import MethodConfig
from mwactl.errors import UsageError


@pytest.mark.parametrize(("first", "second"), [("mwa", "mwa"), ("mwa", "head"), ("lora", "mwa"), ("head", "full")])
def test_a_second_adapter_on_the_same_backbone_is_refused_and_the_first_stays_as_it_was(
    tiny_backbones: dict[str, str], first: Any, second: Any
) -> None:
    if first == "lora":
        pytest.importorskip("peft")
    model = inject(build_backbone(Setup(tiny_backbones["clip"], device="cpu")), MethodConfig(name=first))
    trained = set(model.trainable())
    with pytest.raises(UsageError, match="part of another adapted model"):
        inject(model.backbone, MethodConfig(name=second), seed=1)
    assert set(model.trainable()) == trained
    assert inject(strip(model), MethodConfig(name=second)).trainable()


def test_after_a_refusal_the_first_model_still_computes_with_its_own_modules(
    tiny: Callable[..., Any], pixels: Tensor, train_a_little: Callable[..., None]
) -> None:
    model = inject(tiny(), MethodConfig())
    train_a_little(model)
    before = model.encode_image(pixels)
    with pytest.raises(UsageError):
        inject(model.backbone, MethodConfig())
    assert torch.equal(model.encode_image(pixels), before)
