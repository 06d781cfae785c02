"""The places in open_clip's towers where MultiWay-Adapter modules attach.

Three kinds of block are hosts: open_clip's own residual attention block, timm's ViT block (both pre-LN), and the
output part of a Hugging Face BERT-like layer (post-LN). A block's `forward` is replaced on the instance while modules
are attached, so no parameter is renamed and nothing is registered in the backbone.

Shape notation: b batch, n tokens, d the block's width, f the FFN's hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mwactl.backbone.contract import Branch, FeedForward, Modality, Site
from mwactl.errors import IncompatibleError

_BERT_LIKE = ("bert", "roberta", "xlm-roberta")
_Forward = Callable[..., Tensor]


class BlockSite(Site):
    """A block through which one modality passes, hosted by replacing `module.forward`."""

    def __init__(
        self, tower: Modality, depth: int, *, module: nn.Module, forward: _Forward, norm: nn.LayerNorm
    ) -> None:
        width = int(norm.normalized_shape[0])
        super().__init__(f"{tower}/{depth}", depth=depth, width=width, eps=float(norm.eps), modalities=(tower,))
        self._module = module
        self._forward = forward

    def attach(self, extractors: Mapping[Modality, Branch], enhancers: Mapping[Modality, Branch]) -> None:
        """Compute with these modules from now on."""
        modality = self.modalities[0]
        adapted = partial(self._forward, self._module, extractors.get(modality), enhancers.get(modality))
        self._module.forward = adapted

    def detach(self) -> None:
        """Compute as the untouched block again."""
        self._module.__dict__.pop("forward", None)


class OpenClipSite(BlockSite):
    """open_clip's residual attention block."""

    def __init__(self, tower: Modality, depth: int, block: Any) -> None:
        super().__init__(tower, depth, module=block, forward=_open_clip_block, norm=block.ln_2)
        self._block = block

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """Its MLP; None where a linear map is of another kind (quantised)."""
        block = self._block
        return _feed_forward(block.ln_2, block.mlp.c_fc, block.mlp.gelu, None, block.mlp.c_proj, block.ls_2)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Compute `x2 = x1 + branch(x1)`."""
        self._block.ln_2, self._block.mlp, self._block.ls_2 = nn.Identity(), branch, nn.Identity()
        # open_clip looks into the MLP to learn the tower's precision.
        self._block.get_weight_dtype = partial(_dtype_of, branch)


class TimmSite(BlockSite):
    """timm's ViT block."""

    def __init__(self, tower: Modality, depth: int, block: Any) -> None:
        super().__init__(tower, depth, module=block, forward=_timm_block, norm=block.norm2)
        self._block = block

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """Its MLP; None for a gated one, whose hidden units are products."""
        block, mlp = self._block, self._block.mlp
        if type(mlp) is not Mlp:
            return None
        return _feed_forward(block.norm2, mlp.fc1, mlp.act, mlp.norm, mlp.fc2, block.ls2)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Compute `x2 = x1 + branch(x1)`."""
        self._block.norm2, self._block.mlp, self._block.ls2 = nn.Identity(), branch, nn.Identity()


class BertSite(BlockSite):
    """The output part of a BERT-like layer; the FFN begins in the part before it."""

    def __init__(self, tower: Modality, depth: int, layer: Any) -> None:
        super().__init__(tower, depth, module=layer.output, forward=_bert_output, norm=layer.output.LayerNorm)
        self._layer = layer

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """Its FFN, which reads x1 as it is."""
        intermediate, output = self._layer.intermediate, self._layer.output
        return _feed_forward(None, intermediate.dense, intermediate.intermediate_act_fn, None, output.dense, None)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Normalise `x1 + branch(x1)`: the output part gets x1 in place of hidden units, and `branch` reads it."""
        self._layer.intermediate, self._layer.output.dense = nn.Identity(), branch


def tower_sites(model: nn.Module, tower: Modality) -> list[Site]:
    """The sites of one tower.

    Raises:
        IncompatibleError: The tower has no transformer blocks of a kind that can host modules.
    """
    if tower == "image":
        blocks, kind = _image_blocks(model)
    else:
        blocks, kind = _text_blocks(model)
    sites: list[Site] = []
    for depth, block in enumerate(blocks):
        if isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv"):
            sites.append(OpenClipSite(tower, depth, block))
        elif type(block) is Block:
            sites.append(TimmSite(tower, depth, block))
        elif kind in _BERT_LIKE:
            sites.append(BertSite(tower, depth, block))
        else:
            raise _refusal(tower, f"its blocks are {type(block).__name__}")
    if not sites:
        raise _refusal(tower, f"it is a {kind}")
    return sites


def _image_blocks(model: nn.Module) -> tuple[list[nn.Module], str]:
    visual: Any = model.visual
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        return list(getattr(trunk, "blocks", [])), type(trunk).__name__
    if hasattr(visual, "transformer"):
        return list(visual.transformer.resblocks), type(visual).__name__
    return [], type(visual).__name__


def _text_blocks(model: nn.Module) -> tuple[list[nn.Module], str]:
    text: Any = getattr(model, "text", model)
    config = getattr(text, "config", None)
    if config is not None:
        encoder = getattr(text.transformer, "encoder", None)
        return list(getattr(encoder, "layer", [])), str(config.model_type)
    return list(text.transformer.resblocks), type(text).__name__


def _refusal(tower: Modality, reason: str) -> IncompatibleError:
    other = "text" if tower == "image" else "image"
    return IncompatibleError(
        f"the {tower} tower has no transformer block that can take a Knowledge Extractor",
        why=f"{reason}; MWA attaches beside the feed-forward network of a residual transformer block",
        fix=f"adapt the other tower alone: method.mwa.modalities=[{other}]  (inject: --modalities {other})",
    )


def _open_clip_block(
    block: Any, extractor: Branch | None, enhancer: Branch | None, q_x: Tensor,
    k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """open_clip's pre-LN block, [b, n, d] -> [b, n, d] (or [n, b, d]: the modules act on the last axis alone)."""
    x1 = q_x + block.ls_1(block.attention(q_x=block.ln_1(q_x), k_x=k_x, v_x=v_x, attn_mask=attn_mask))
    x2 = x1 + block.ls_2(block.mlp(block.ln_2(x1)))
    return _with_branches(x1, x2, extractor, enhancer)


def _timm_block(
    block: Any, extractor: Branch | None, enhancer: Branch | None, x: Tensor,
    attn_mask: Tensor | None = None, is_causal: bool = False,
) -> Tensor:  # fmt: skip
    """timm's pre-LN ViT block, [b, n, d] -> [b, n, d]."""
    x1 = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))
    x2 = x1 + block.drop_path2(block.ls2(block.mlp(block.norm2(x1))))
    return _with_branches(x1, x2, extractor, enhancer)


def _bert_output(
    output: Any, extractor: Branch | None, enhancer: Branch | None, hidden_states: Tensor, input_tensor: Tensor
) -> Tensor:
    """The end of a post-LN layer: FFN hidden [b, n, f] and x1 [b, n, d] -> [b, n, d].

    The extractor's branch joins the residual sum, which the layer then normalises: the place equation 2 gives it.
    """
    total = output.dropout(output.dense(hidden_states)) + input_tensor
    if extractor is not None:
        total = total + extractor(input_tensor)
    x2: Tensor = output.LayerNorm(total)
    return x2 if enhancer is None else x2 + enhancer(x2)


def _feed_forward(norm: Any, fc1: Any, activation: Any, inner_norm: Any, fc2: Any, scale: Any) -> FeedForward | None:
    """The FFN of these parts, or None where one of them is not of the kind that a fold knows."""
    factors = None if scale is None else getattr(scale, "gamma", None)
    known = (
        (norm is None or isinstance(norm, nn.LayerNorm))
        and isinstance(inner_norm, nn.LayerNorm | nn.Identity | None)
        and type(fc1) is type(fc2) is nn.Linear
        and (factors is not None or isinstance(scale, nn.Identity | None))
        and not (isinstance(activation, nn.Module) and any(True for _ in activation.parameters()))
    )
    inner = inner_norm if isinstance(inner_norm, nn.LayerNorm) else None
    return FeedForward(norm, fc1, activation, inner, fc2, factors) if known else None


def _dtype_of(branch: nn.Module) -> torch.dtype:
    return next(branch.parameters()).dtype


def _with_branches(x1: Tensor, x2: Tensor, extractor: Branch | None, enhancer: Branch | None) -> Tensor:
    """`x2 + KE(x1)`, then `+ AE(…)` (paper, equations 1 and 2)."""
    if extractor is not None:
        x2 = x2 + extractor(x1)
    return x2 if enhancer is None else x2 + enhancer(x2)
