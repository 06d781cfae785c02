"""Two maps in a row whose intermediate result is computed again in the backward pass instead of being kept.

Elementwise work and normalisation cost next to nothing beside the matrix products around them, but what autograd keeps
for them is more than half of a frozen layer's memory. Values and gradients are those of the plain composition.

Shape notation: t tokens (any leading axes), d width, f and m hidden widths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear

_norm = torch.ops.aten.native_layer_norm
_norm_backward = torch.ops.aten.native_layer_norm_backward
_gelu_backward = torch.ops.aten.gelu_backward


def gelu_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """`norm(gelu(x))`, the middle of a sub-LN FFN: [t, f] -> [t, f]. Keeps x alone."""
    if torch.is_grad_enabled() and x.requires_grad:
        normed: Tensor = _GeluNorm.apply(x, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)
    else:
        normed = norm(gelu(x))
    return normed


def norm_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """`linear(norm(x))`, the first half of an adapter module: [t, d] -> [t, m]. Keeps x alone."""
    if torch.is_grad_enabled() and (x.requires_grad or linear.weight.requires_grad):
        projected: Tensor = _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias)
    else:
        projected = linear(norm(x))
    return projected


class _GeluNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        normed, mean, inverse_deviation = _norm(gelu(x), weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse_deviation)
        return normed  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_deviation = ctx.saved_tensors
        of_hidden, of_weight, of_bias = _norm_backward(
            gradient, gelu(x), weight.shape, mean, inverse_deviation, weight, bias, list(ctx.needs_input_grad[:3])
        )
        return _gelu_backward(of_hidden, x), of_weight, of_bias, None


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.dtype = _product_dtype(x)
        normed, mean, inverse_deviation = _norm(
            x, norm_weight.shape, norm_weight.to(x.dtype), norm_bias.to(x.dtype), eps
        )
        ctx.save_for_backward(x, norm_weight, norm_bias, mean, inverse_deviation, weight)
        return linear(normed.to(ctx.dtype), weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, mean, inverse_deviation, weight = ctx.saved_tensors
        wants_x, wants_norm_weight, wants_norm_bias, _, wants_weight, wants_bias = ctx.needs_input_grad
        own_weight, own_bias = norm_weight.to(x.dtype), norm_bias.to(x.dtype)
        rows = gradient.flatten(0, -2)  # […, m] -> [t, m]
        of_weight, of_bias = None, rows.sum(0).to(weight.dtype) if wants_bias else None
        if wants_weight:
            normed = ((x - mean) * inverse_deviation * own_weight + own_bias).flatten(0, -2)  # […, d] -> [t, d]
            of_weight = (rows.T @ normed.to(ctx.dtype)).to(weight.dtype)  # [m, t] @ [t, d] -> [m, d]
        of_normed = (gradient @ weight.to(ctx.dtype)).to(x.dtype)
        of_x, of_norm_weight, of_norm_bias = _norm_backward(
            of_normed, x, norm_weight.shape, mean, inverse_deviation, own_weight, own_bias,
            [wants_x, wants_norm_weight, wants_norm_bias],
        )  # fmt: skip
        return of_x, _as(of_norm_weight, norm_weight), _as(of_norm_bias, norm_bias), None, of_weight, of_bias


def _product_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product computes in: autocast's type where that is on (it is off in every backward pass)."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else x.dtype


def _as(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(parameter.dtype)
