"""The canary: an adapter that is loaded must be heard, and must say numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwactl.adapter import check_active, inject
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import ExitCode, VerificationError

Tiny = Callable[..., Any]
TrainALittle = Callable[..., None]


def test_a_working_adapter_passes_and_its_effect_is_measured(
    tiny: Tiny, pixels: Tensor, train_a_little: TrainALittle
) -> None:
    model = inject(tiny(), MethodConfig())
    train_a_little(model)
    before = model.encode_image(pixels)
    assert check_active(model) > 1e-4
    assert torch.equal(model.encode_image(pixels), before)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_site_that_ignores_its_modules_is_noticed(tiny: Tiny, train_a_little: TrainALittle, modality: Any) -> None:
    model = inject(tiny(), MethodConfig())
    train_a_little(model)
    for site in model.backbone.sites([modality]):
        site.detach()
    with pytest.raises(VerificationError, match=f"does not change {modality} embeddings") as raised:
        check_active(model)
    assert raised.value.exit_code == ExitCode.VERIFICATION


def test_zero_up_projections_are_accepted(tiny: Tiny) -> None:
    assert check_active(inject(tiny(), MethodConfig())) == 0.0


def test_one_tower_is_enough(tiny: Tiny, train_a_little: TrainALittle) -> None:
    model = inject(tiny(), MethodConfig(mwa=MwaConfig(modalities=("text",))))
    train_a_little(model)
    assert check_active(model) > 0


@pytest.mark.parametrize("method", ["head", "full"])
def test_baselines_have_no_modules_to_hear(tiny: Tiny, method: Any) -> None:
    assert check_active(inject(tiny(), MethodConfig(name=method))) == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_an_adapter_that_makes_no_numbers_fails(
    tiny: Tiny, train_a_little: TrainALittle, value: float, modality: str
) -> None:
    model = inject(tiny(), MethodConfig())
    train_a_little(model)
    up = f"adapter.sites.{modality}/1.alignment_enhancer.{modality}.up.weight"
    nn.init.constant_(model.get_parameter(up), value)
    with pytest.raises(VerificationError, match=f"{modality} embeddings .* not finite"):
        check_active(model)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_the_modules_are_left_as_they_were(
    tiny: Tiny, pixels: Tensor, train_a_little: TrainALittle, training: bool
) -> None:
    model = inject(tiny(), MethodConfig(mwa=MwaConfig(dropout=0.5)))
    train_a_little(model)
    before = model.encode_image(pixels)
    model.train(training)
    check_active(model)
    assert model.training is training
    assert not model.backbone.training
    assert torch.equal(model.eval().encode_image(pixels), before)


def test_a_canary_in_training_mode_hears_the_adapter_and_not_its_dropout(
    tiny: Tiny, train_a_little: TrainALittle
) -> None:
    model = inject(tiny(), MethodConfig(mwa=MwaConfig(dropout=0.5)))
    train_a_little(model)
    expected = check_active(model)
    assert check_active(model.train()) == expected


def test_a_tiny_adapter_whose_effect_is_lost_to_rounding_is_no_error(tiny: Tiny, train_a_little: TrainALittle) -> None:
    model = inject(tiny(), MethodConfig(mwa=MwaConfig(alpha=1e-12, alignment_enhancer=0)))
    train_a_little(model)
    assert check_active(model) == 0.0
