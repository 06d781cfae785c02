"""open_clip's own residual attention blocks as hosts, the usual one and the one with further norms (both pre-LN).

Shape notation: b batch, n tokens, d the block's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from open_clip.transformer import CustomResidualAttentionBlock, LayerScale, ResidualAttentionBlock
from torch import Tensor, nn

from mwactl.backbone.branches import with_branches
from mwactl.backbone.contract import Branch, FeedForward, Modality
from mwactl_clip.block_site import BlockSite, feed_forward_of, form_of, linear_maps


class OpenClipSite(BlockSite):
    """One of them."""

    def __init__(self, tower: Modality, depth: int, block: Any) -> None:
        forward = _custom_block if isinstance(block, CustomResidualAttentionBlock) else _block
        super().__init__(tower, depth, module=block, forward=forward, **form_of(block.ln_2))
        self._block = block

    @staticmethod
    def can_host(block: nn.Module) -> bool:
        """Whether it is such a block (and no decoder's, which attends to pictures)."""
        usual = isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv")
        return usual or isinstance(block, CustomResidualAttentionBlock)

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """Its MLP; None where a linear map is of another kind (quantised)."""
        block, mlp = self._block, self._block.mlp
        scale = block.ls_2.gamma if isinstance(block.ls_2, LayerScale) else None
        return feed_forward_of(block.ln_2, mlp.c_fc, mlp.gelu, getattr(mlp, "ln", None), mlp.c_proj, scale)

    def attention_linears(self, modality: Modality) -> Sequence[nn.Linear]:
        """The last one of the block with further norms; all else is packed."""
        return linear_maps(self._block.attn)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Compute `x2 = x1 + branch(x1)`."""
        self._block.ln_2, self._block.mlp, self._block.ls_2 = nn.Identity(), branch, nn.Identity()
        # open_clip looks into the MLP to learn the tower's precision.
        self._block.get_weight_dtype = partial(_dtype_of, branch)


def _block(
    block: Any, extractor: Branch | None, enhancer: Branch | None, q_x: Tensor,
    k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """[b, n, d] -> [b, n, d] (or [n, b, d]: the modules act on the last axis alone)."""
    x1 = q_x + block.ls_1(block.attention(q_x=block.ln_1(q_x), k_x=k_x, v_x=v_x, attn_mask=attn_mask))
    x2 = x1 + block.ls_2(block.mlp(block.ln_2(x1)))
    return with_branches(x1, x2, extractor, enhancer)


def _custom_block(
    block: Any, extractor: Branch | None, enhancer: Branch | None, x: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """With a norm after attention and one among the FFN's hidden units, where it has them: [b, n, d] -> [b, n, d]."""
    x1 = x + block.ls_1(block.ln_attn(block.attn(block.ln_1(x), attn_mask=attn_mask)))
    x2 = x1 + block.ls_2(block.mlp(block.ln_2(x1)))
    return with_branches(x1, x2, extractor, enhancer)


def _dtype_of(branch: nn.Module) -> torch.dtype:
    return next(branch.parameters()).dtype
