"""Which device computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch

from mwactl.errors import UsageError

if TYPE_CHECKING:
    from mwactl.backbone.contract import Backbone

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` -> a device that exists.

    Raises:
        UsageError: No such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device `{name}`", fix="auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"no device `{name}` here", why=f"{torch.cuda.device_count()} CUDA devices", fix="device cpu")
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """`auto`: bf16 on a GPU that has it, fp16 on another GPU, fp32 on a CPU.

    Raises:
        UsageError: fp16 on a CPU.
    """
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise UsageError("fp16 needs a GPU", fix="train.precision=bf16 or fp32 on a CPU")
    if name in get_args(Precision):
        return cast(Precision, name)
    raise UsageError(f"unknown precision `{name}`", fix="auto, fp32, bf16 or fp16")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """The context in which the towers compute; adapters and losses keep fp32 parameters."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


def hold_frozen(backbone: Backbone, precision: Precision) -> None:
    """Keep a backbone's frozen weights in the precision they compute in, so that no step casts them again.

    Autocast remembers its casts of trained weights within a step, never those of frozen ones. What is trained, the
    temperature and all buffers stay as they are; so does a norm of which a part is trained, since no kernel takes its
    weight and its bias in two precisions.
    """
    if precision == "fp32":
        return
    dtype = _DTYPES[precision]
    kept = {id(backbone.logit_scale), id(backbone.logit_bias)}
    for module in backbone.modules():
        own = list(module.parameters(recurse=False))
        if any(parameter.requires_grad for parameter in own) and all(parameter.dim() == 1 for parameter in own):
            kept.update(map(id, own))
    for parameter in backbone.parameters():
        if not parameter.requires_grad and parameter.dtype == torch.float32 and id(parameter) not in kept:
            parameter.data = parameter.data.to(dtype)
