"""Random values that are the same on every processor.

They are part of a backbone's identity where a weights file lacks them, and torch's kernels differ in the last bits from
one instruction set to another. So they are drawn in fp64, and the rounding to fp32 removes what differs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normal_(tensor: Tensor, *, std: float) -> Tensor:
    """Fill a tensor from a normal around zero."""
    with torch.no_grad():
        return tensor.copy_(nn.init.normal_(torch.empty(tensor.shape, dtype=torch.float64), std=std))


def truncated_normal_(tensor: Tensor, *, std: float, bound: float) -> Tensor:
    """Fill a tensor from a normal around zero that is cut at ±`bound`."""
    with torch.no_grad():
        drawn = nn.init.trunc_normal_(torch.empty(tensor.shape, dtype=torch.float64), std=std, a=-bound, b=bound)
        return tensor.copy_(drawn)
