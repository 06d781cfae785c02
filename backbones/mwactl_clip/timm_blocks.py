"""timm's transformer blocks as hosts: ViT, with relative positions, Swin, and EVA's two.

Shape notation: b batch, n tokens, d the block's width, h and w the grid of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from timm.layers import Mlp
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from timm.models.vision_transformer_relpos import RelPosBlock
from torch import Tensor, nn

from mwactl.backbone.branches import with_branches
from mwactl.backbone.contract import Branch, FeedForward, Modality
from mwactl_clip.block_site import BlockSite, feed_forward_of, form_of, linear_maps


class TimmSite(BlockSite):
    """One of them. A subclass of theirs may compute something else, so it is none."""

    def __init__(self, tower: Modality, depth: int, block: Any) -> None:
        super().__init__(tower, depth, module=block, forward=_FORWARD[type(block)], **form_of(block.norm2))
        self._block = block

    @staticmethod
    def can_host(block: nn.Module) -> bool:
        """Whether it is such a block."""
        return type(block) in _FORWARD

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """Its MLP; None for a gated one, whose hidden units are products, and where a norm follows it."""
        block, mlp = self._block, self._block.mlp
        if type(mlp) is not Mlp or type(block) is EvaBlockPostNorm:
            return None
        scale = block.gamma_2 if type(block) is EvaBlock else getattr(getattr(block, "ls2", None), "gamma", None)
        return feed_forward_of(block.norm2, mlp.fc1, mlp.act, mlp.norm, mlp.fc2, scale)

    def attention_linears(self, modality: Modality) -> Sequence[nn.Linear]:
        """All, but EVA's fused one whose bias is made of parts: that is no call of a module."""
        attention = self._block.attn
        packed = (
            isinstance(attention, EvaAttention) and attention.q_bias is not None and not attention.qkv_bias_separate
        )
        return [linear for linear in linear_maps(attention) if not (packed and linear is attention.qkv)]

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Compute `x2 = x1 + branch(x1)`."""
        block = self._block
        block.norm2, block.mlp = nn.Identity(), branch
        if type(block) is EvaBlock:
            block.gamma_2 = None
        else:
            block.ls2 = nn.Identity()


def _vit(
    block: Any, extractor: Branch | None, enhancer: Branch | None, x: Tensor,
    attn_mask: Tensor | None = None, is_causal: bool = False,
) -> Tensor:  # fmt: skip
    """[b, n, d] -> [b, n, d]."""
    x1 = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))
    x2 = x1 + block.drop_path2(block.ls2(block.mlp(block.norm2(x1))))
    return with_branches(x1, x2, extractor, enhancer)


def _relative_positions(
    block: Any, extractor: Branch | None, enhancer: Branch | None, x: Tensor, shared_rel_pos: Tensor | None = None
) -> Tensor:
    """[b, n, d] -> [b, n, d]."""
    x1 = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), shared_rel_pos=shared_rel_pos)))
    x2 = x1 + block.drop_path2(block.ls2(block.mlp(block.norm2(x1))))
    return with_branches(x1, x2, extractor, enhancer)


def _swin(block: Any, extractor: Branch | None, enhancer: Branch | None, x: Tensor) -> Tensor:
    """[b, h, w, d] -> [b, h, w, d]; d is another in every stage."""
    x1 = (x + block.drop_path1(block._attn(block.norm1(x)))).flatten(1, 2)  # [b, h, w, d] -> [b, n, d]
    x2 = x1 + block.drop_path2(block.mlp(block.norm2(x1)))
    return with_branches(x1, x2, extractor, enhancer).reshape(x.shape)  # [b, n, d] -> [b, h, w, d]


def _eva(
    block: Any, extractor: Branch | None, enhancer: Branch | None, x: Tensor,
    rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False,
) -> Tensor:  # fmt: skip
    """Layer scale is a parameter of the block itself: [b, n, d] -> [b, n, d]."""
    attended = block.attn(block.norm1(x), rope=rope, attn_mask=attn_mask, is_causal=is_causal)
    x1 = x + block.drop_path1(attended if block.gamma_1 is None else block.gamma_1 * attended)
    computed = block.mlp(block.norm2(x1))
    x2 = x1 + block.drop_path2(computed if block.gamma_2 is None else block.gamma_2 * computed)
    return with_branches(x1, x2, extractor, enhancer)


def _eva_post_norm(
    block: Any, extractor: Branch | None, enhancer: Branch | None, x: Tensor,
    rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False,
) -> Tensor:  # fmt: skip
    """Each branch is normalised before it joins the residual sum: [b, n, d] -> [b, n, d]."""
    attended = block.attn(x, rope=rope, attn_mask=attn_mask, is_causal=is_causal)
    x1 = x + block.drop_path1(block.norm1(attended))
    x2 = x1 + block.drop_path2(block.norm2(block.mlp(x1)))
    return with_branches(x1, x2, extractor, enhancer)


_FORWARD: dict[type[nn.Module], Callable[..., Tensor]] = {
    Block: _vit,
    RelPosBlock: _relative_positions,
    SwinTransformerBlock: _swin,
    EvaBlock: _eva,
    EvaBlockPostNorm: _eva_post_norm,
}
