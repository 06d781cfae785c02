"""A LayerNorm that stays in its input's precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm


class LayerNorm(nn.LayerNorm):
    """Computes in its input's own precision; the kernel sums in fp32 either way.

    Autocast would take the input, and what is saved for the backward pass, to fp32: twice the memory of a bf16 tensor.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] -> […, d]."""
        if x.is_meta:  # autocast knows no such device
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
