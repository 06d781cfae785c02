"""Devices and precisions: what is asked for, or an error; never something else in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mwactl.adapter import inject
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.precision import autocast, choose_device, choose_precision, hold_frozen
from mwactl.config.recipe import MethodConfig
from mwactl.errors import ExitCode, UsageError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("devices", [0, 2])
def test_devices_that_exist(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert choose_device("auto").type == ("cuda" if devices else "cpu")
    assert choose_device("cpu") == CPU
    for name, needed in (("cuda", 1), ("cuda:1", 2), ("cuda:2", 3)):
        if needed <= devices:
            assert choose_device(name) == torch.device(name)
        else:
            with pytest.raises(UsageError, match=f"no device `{name}` here") as raised:
                choose_device(name)
            assert raised.value.exit_code == ExitCode.USAGE
    with pytest.raises(UsageError, match="unknown device `gpu`"):
        choose_device("gpu")


@pytest.mark.parametrize(("has_bf16", "on_gpu"), [(True, "bf16"), (False, "fp16")])
def test_automatic_precision(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, on_gpu: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("auto", GPU) == on_gpu


def test_named_precisions_are_kept_or_refused() -> None:
    assert [choose_precision(name, GPU) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        choose_precision("fp16", CPU)
    with pytest.raises(UsageError, match="unknown precision `fp8`"):
        choose_precision("fp8", CPU)


def test_autocast_computes_in_the_precision_and_fp32_leaves_alone() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_frozen_weights_are_held_in_the_precision_they_compute_in(tiny_clip: Path) -> None:
    plugin, spec = find_spec(f"clip:local-dir:{tiny_clip}")
    model = inject(plugin.build(spec, WeightsRequest()), MethodConfig())
    trained = {id(parameter) for parameter in model.trainable().values()}
    pixels, tokens = torch.randn(3, 3, 32, 32), model.backbone.tokenize(["a", "b c", "d"])

    def embed() -> torch.Tensor:
        with torch.no_grad(), autocast(torch.device("cpu"), "bf16"):
            return torch.cat([model.encode_image(pixels), model.encode_text(tokens)]).float()

    cast_in_each_step = embed()
    hold_frozen(model.backbone, "fp32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    hold_frozen(model.backbone, "bf16")
    scale = model.backbone.logit_scale
    for parameter in model.parameters():
        stays = id(parameter) in trained or parameter is scale
        assert parameter.dtype == (torch.float32 if stays else torch.bfloat16)
    torch.testing.assert_close(embed(), cast_in_each_step, rtol=0.05, atol=0.02)
