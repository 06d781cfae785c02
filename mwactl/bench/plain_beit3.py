"""BEiT-3 the plain way: the encoder of its authors (torchscale 0.2.0) with MWA put into its layers.

Shape notation: b batch, n tokens, s padded length of text, h heads, c channels of a head, d width.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mwactl.adapter import AdaptedModel
from mwactl.bench.plain import PlainModel, PlainSite, named, plain_adapter
from mwactl.bench.setup import UnavailableError

#: Packages that torchscale names, but needs for other sizes only, with the names that it imports from them.
_STOOD_IN_FOR = {
    "fairscale": (),
    "fairscale.nn": ("checkpoint_wrapper", "wrap"),
    "timm": (),
    "timm.models": (),
    "timm.models.layers": ("drop_path",),
}
_PADDING = 1


def make_plain(model: AdaptedModel, *, fused: bool) -> PlainModel:
    """The authors' encoder with this model's tensors.

    Raises:
        UnavailableError: torchscale is not installed.
    """
    return PlainBeit3(model, fused=fused)


class PlainBeit3(PlainModel):
    """The authors' encoder, two heads, and MWA in the layers where the model has it."""

    def __init__(self, model: AdaptedModel, *, fused: bool) -> None:
        super().__init__()
        ours: Any = model.backbone.model
        self.net: Any = _authors(ours)
        self.net.requires_grad_(model.method.name == "full")
        self.logit_scale = self.net.logit_scale
        self._heads = (self.net.vision_head, self.net.language_head)
        self.adapter = plain_adapter(model.adapter)
        layers = self.net.beit3.encoder.layers
        for depth, layer in enumerate(layers):
            if fused:
                layer.self_attn = FusedAttention(layer.self_attn)
            if self.adapter is not None:
                layers[depth] = MwaLayer(layer, self.adapter.site(f"layer/{depth}"))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e]."""
        features = self.net.beit3(visual_tokens=pixels)["encoder_out"]  # [b, n, d]
        embedding: Tensor = self.net.vision_head(features[:, 0])
        return embedding

    def encode_text(self, tokens: Tensor) -> Tensor:
        """[b, s] -> [b, e]."""
        output = self.net.beit3(textual_tokens=tokens, text_padding_position=tokens == _PADDING)
        embedding: Tensor = self.net.language_head(output["encoder_out"][:, 0])  # [b, s, d] -> [b, e]
        return embedding

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained."""
        return named(self.adapter, "adapter") or named(self.net, "backbone.model")

    def blocks(self) -> Iterator[nn.Module]:
        """The encoder's layers."""
        yield from self.net.beit3.encoder.layers


class MwaLayer(nn.Module):
    """One of the authors' layers with MWA in it."""

    def __init__(self, layer: Any, modules: PlainSite) -> None:
        super().__init__()
        self.layer = layer
        self.modules_of_site = modules

    def forward(
        self, x: Tensor, encoder_padding_mask: Tensor | None, multiway_split_position: int = -1, **_: Any
    ) -> tuple[Tensor, None]:
        """[b, n, d] -> [b, n, d]. A split position of 0 means captions; before, the encoder has set it everywhere."""
        layer, modality = self.layer, "text" if multiway_split_position == 0 else "image"
        normed = layer.self_attn_layer_norm(x)
        attended, _weights = layer.self_attn(
            query=normed, key=normed, value=normed, key_padding_mask=encoder_padding_mask
        )
        x1 = x + attended
        x2 = x1 + layer.ffn(layer.final_layer_norm(x1)) + self.modules_of_site.extractor(modality)(x1)
        return x2 + self.modules_of_site.enhancer(modality)(x2), None


class FusedAttention(nn.Module):
    """The authors' attention with a fused kernel in the place of its products and its softmax."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.inner_attn_ln, self.out_proj = attention.inner_attn_ln, attention.out_proj
        self.heads = attention.num_heads

    def forward(self, query: Tensor, key_padding_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        """[b, n, d] -> [b, n, d]. Pictures have no padding, and so no mask."""
        parts = [
            projection(query).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [b, n, d] -> [b, h, n, c]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        is_text = self.q_proj.split_position == 0 and key_padding_mask is not None
        mask = ~key_padding_mask[:, None, None, :] if is_text and key_padding_mask is not None else None
        mixed = scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)
        return self.out_proj(self.inner_attn_ln(mixed.transpose(1, 2).flatten(2))), None  # [b, h, n, c] -> [b, n, d]


def _authors(ours: Any) -> Any:
    """The authors' encoder and two heads, holding the tensors of `ours`."""
    sizes = ours.beit3.config
    with _torchscale() as (config_class, model_class), torch.device("meta"):
        options = config_class(
            encoder_embed_dim=sizes.width, encoder_layers=sizes.layers, encoder_attention_heads=sizes.heads,
            encoder_ffn_embed_dim=sizes.hidden, img_size=sizes.image_size, patch_size=sizes.patch,
            vocab_size=sizes.vocabulary, max_source_positions=sizes.text_positions, multiway=True,
            no_output_layer=True,
        )  # fmt: skip
        theirs = nn.Module()
        theirs.beit3 = model_class(options)
        theirs.language_head = nn.Linear(sizes.width, sizes.width, bias=False)
        theirs.vision_head = nn.Linear(sizes.width, sizes.width, bias=False)
        theirs.logit_scale = nn.Parameter(torch.zeros(()))
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    return theirs


@contextmanager
def _torchscale() -> Iterator[tuple[Any, Any]]:
    """The classes of its configuration and its model; what it imports but does not need is stood in for.

    Raises:
        UnavailableError: It is not installed.
    """
    if find_spec("torchscale") is None:
        raise UnavailableError("torchscale is not installed (pip install --no-deps torchscale==0.2.0)")
    kept = {name: sys.modules.get(name) for name in _STOOD_IN_FOR}
    try:
        for name, members in _STOOD_IN_FOR.items():
            module = ModuleType(name)
            vars(module).update(dict.fromkeys(members))
            sys.modules[name] = module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = import_module("torchscale.architecture.config").EncoderConfig
            model = import_module("torchscale.model.BEiT3").BEiT3
        yield config, model
    finally:
        for name, before in kept.items():
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before
