"""Devices and precisions: what is asked for, or an error; never something else in silence."""

from __future__ import annotations

import pytest
import torch

from mwactl.backbone.precision import autocast, choose_device, choose_precision
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
