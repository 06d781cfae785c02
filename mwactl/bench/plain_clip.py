"""CLIP the plain way: open_clip's own towers with explicit attention, untrimmed text, and MWA in their blocks.

Shape notation: b batch, n tokens, h heads, c channels of a head, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from mwactl.adapter import AdaptedModel
from mwactl.bench.plain import PlainModel, PlainSite, naive_attention, named, plain_adapter
from mwactl.bench.setup import UnavailableError


def make_plain(model: AdaptedModel, *, fused: bool) -> PlainModel:
    """open_clip's towers, changed in place.

    Raises:
        UnavailableError: A tower is not made of open_clip's own blocks.
    """
    return PlainClip(model, fused=fused)


class PlainClip(PlainModel):
    """The model of a CLIP backbone; attention is that of its own module, or the explicit one."""

    def __init__(self, model: AdaptedModel, *, fused: bool) -> None:
        super().__init__()
        backbone: Any = model.backbone
        self.backbone = backbone
        self.adapter = plain_adapter(model.adapter)
        self.logit_scale = model.backbone.logit_scale
        towers = {"image": backbone.model.visual, "text": backbone.model}
        self._blocks: list[Any] = []
        for tower, module in towers.items():
            blocks = getattr(getattr(module, "transformer", None), "resblocks", None)
            if blocks is None or not all(isinstance(block.attn, nn.MultiheadAttention) for block in blocks):
                raise UnavailableError(f"the {tower} tower is not made of open_clip's own blocks")
            for depth, block in enumerate(blocks):
                if not fused:
                    block.attn = NaiveMultihead(block.attn)
                site = None if self.adapter is None else self.adapter.site(f"{tower}/{depth}")
                block.forward = partial(_block, block, site, tower)
                self._blocks.append(block)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e]."""
        embedding: Tensor = self.backbone.encode_image(pixels)
        return embedding

    def encode_text(self, tokens: Tensor) -> Tensor:
        """[b, s] -> [b, e]; the padding is computed."""
        embedding: Tensor = self.backbone.encode_padded_text(tokens)
        return embedding

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained."""
        return named(self.adapter, "adapter") or named(self.backbone, "backbone")

    def blocks(self) -> Iterator[nn.Module]:
        """The blocks of both towers."""
        yield from self._blocks


class NaiveMultihead(nn.Module):
    """torch's multi-head attention with its probabilities as tensors; the parameters keep their names."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        if not attention.batch_first or attention.in_proj_bias is None:
            raise UnavailableError("open_clip's attention has another form here")
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj
        self.heads = attention.num_heads

    def forward(
        self, q_x: Tensor, k_x: Tensor, v_x: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """[b, n, d] -> [b, n, d]; all three are the same tensor."""
        packed: Any = nn.functional.linear(q_x, self.in_proj_weight, self.in_proj_bias)  # [b, n, d] -> [b, n, 3·d]
        parts = packed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [b, n, 3·d] -> [3, b, h, n, c]
        query, key, value = parts.unbind()
        mixed = naive_attention(query, key, value, attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None  # [b, h, n, c] -> [b, n, d]


def _block(block: Any, site: PlainSite | None, tower: str, q_x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """open_clip's pre-LN block with MWA: [b, n, d] -> [b, n, d]."""
    x1: Tensor = q_x + block.ls_1(block.attention(q_x=block.ln_1(q_x), attn_mask=attn_mask))
    x2: Tensor = x1 + block.ls_2(block.mlp(block.ln_2(x1)))
    if site is None:
        return x2
    x2 = x2 + site.extractor(tower)(x1)
    y: Tensor = x2 + site.enhancer(tower)(x2)
    return y
