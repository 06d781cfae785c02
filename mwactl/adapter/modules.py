"""The two modules of the MultiWay-Adapter (paper, section 3, equations 1 and 2).

Shape notation: b batch, n tokens, d the block's width, m the middle dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mwactl.backbone.recompute import norm_linear
from mwactl.config.presets import CompleteMwaConfig


class Bottleneck(nn.Module):
    """`scale · up(act(down(LN(x))))`: the form both modules share.

    `up` starts at zero, so a fresh module adds exactly nothing.

    Args:
        width: d.
        middle: m.
        scale: The factor on the branch (α or β); `learned`: a trained scalar that starts at 1.
        eps: The host block's LayerNorm epsilon: with it, the module can later be folded into the FFN exactly.
        config: LayerNorm, bias, activation and dropout.
    """

    def __init__(self, width: int, middle: int, *, scale: float | str, eps: float, config: CompleteMwaConfig) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(width, eps=eps) if config.layer_norm else nn.Identity()
        self.down = nn.Linear(width, middle, bias=config.bias)
        self.activation: nn.Module = nn.ReLU() if config.activation == "relu" else nn.GELU()
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.Linear(middle, width, bias=config.bias)
        self.scale: float | nn.Parameter = nn.Parameter(torch.ones(())) if scale == "learned" else float(scale)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        if config.bias:
            nn.init.zeros_(self.down.bias)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream [b, n, d] -> the branch to add to it [b, n, d]."""
        middle = self.dropout(self.activation(self._down(x)))  # [b, n, d] -> [b, n, m]
        branch: Tensor = self.up(middle)  # [b, n, m] -> [b, n, d]
        # A factor of one is skipped: the branch is then exactly what `up` gives.
        return branch if not isinstance(self.scale, nn.Parameter) and self.scale == 1.0 else branch * self.scale

    def _down(self, x: Tensor) -> Tensor:
        """[b, n, d] -> [b, n, m]. What the norm gives is not kept for the backward pass."""
        if isinstance(self.norm, nn.LayerNorm):
            return norm_linear(x, self.norm, self.down)
        projected: Tensor = self.down(x)
        return projected

    def adds_nothing(self) -> bool:
        """Whether the branch is zero for every input, as it is before training."""
        scale = self.scale.item() if isinstance(self.scale, nn.Parameter) else self.scale
        silent = not self.up.weight.any() and (self.up.bias is None or not self.up.bias.any())
        return bool(silent) or scale == 0.0


class KnowledgeExtractor(Bottleneck):
    """Beside the feed-forward network: its branch, computed from x1, joins the FFN's residual sum (equation 2)."""


class AlignmentEnhancer(Bottleneck):
    """On top of the block: the same form with a larger middle dimension, on the block's output x2."""


class AuthorsAlignmentEnhancer(nn.Module):
    """The enhancer of the authors' public code: a full-width FFN with a LayerNorm inside, no scale, not zero at start.

    `fc2(LN(GELU(fc1(x))))` with hidden width 4d. Its output is not zero before training, so the preset
    `authors-code` changes the backbone from the first step on, as the public code does.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.norm = nn.LayerNorm(4 * width, eps=1e-5)
        self.fc2 = nn.Linear(4 * width, width)
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02, a=-0.02, b=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output [b, n, d] -> the branch to add to it [b, n, d]."""
        hidden = self.norm(nn.functional.gelu(self.fc1(x)))  # [b, n, d] -> [b, n, 4d]
        branch: Tensor = self.fc2(hidden)  # [b, n, 4d] -> [b, n, d]
        return branch

    def adds_nothing(self) -> bool:
        """Whether the branch is zero for every input."""
        return not self.fc2.weight.any() and not self.fc2.bias.any()
