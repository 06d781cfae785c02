"""VLMo the plain way: the toolkit's own blocks, every token through every layer, padded text, explicit attention.

Shape notation: b batch, n tokens, s padded length of text, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from mwactl.adapter import AdaptedModel
from mwactl.backbone.packing import with_padding
from mwactl.bench.plain import PlainModel, naive_attention, named, plain_adapter

_PADDING = 0


def make_plain(model: AdaptedModel, *, fused: bool) -> PlainModel:
    """The model's own blocks, changed in place."""
    return PlainVlmo(model, fused=fused)


class PlainVlmo(PlainModel):
    """The model of a VLMo backbone without what it leaves out."""

    def __init__(self, model: AdaptedModel, *, fused: bool) -> None:
        super().__init__()
        self.backbone: Any = model.backbone
        self.logit_scale = model.backbone.logit_scale
        self.adapter = plain_adapter(model.adapter)
        self._fused = fused
        if self.adapter is not None:
            for site in model.backbone.sites():
                modules = self.adapter.site(site.name)
                site.attach(
                    {modality: modules.extractor(modality) for modality in site.modalities},
                    {modality: modules.enhancer(modality) for modality in site.modalities},
                )

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e]."""
        model = self.backbone.model
        with self._attention():
            features = model.encode_pictures(pixels)  # [b, n, d]
        embedding: Tensor = model.itc_image_proj(features[:, 0])
        return embedding

    def encode_text(self, tokens: Tensor) -> Tensor:
        """[b, s] -> [b, e]; the padding is computed."""
        model = self.backbone.model
        with self._attention():
            rows = model.encode_text(with_padding(tokens, _PADDING))  # [b·s, d]
        embedding: Tensor = model.itc_text_proj(rows.unflatten(0, tokens.shape)[:, 0])  # [b·s, d] -> [b, s, d]
        return embedding

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained."""
        return named(self.adapter, "adapter") or named(self.backbone, "backbone")

    def blocks(self) -> Iterator[nn.Module]:
        """The transformer's blocks."""
        yield from self.backbone.model.transformer.blocks

    def _attention(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._fused else NaiveAttention()


class NaiveAttention(TorchFunctionMode):
    """Explicit attention wherever a fused kernel is asked for."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Put the explicit form in the place of `scaled_dot_product_attention`."""
        if function is scaled_dot_product_attention:
            query, key, value = args
            return naive_attention(query, key, value, (kwargs or {}).get("attn_mask"))
        return function(*args, **(kwargs or {}))
