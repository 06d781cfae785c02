"""The layers of Hugging Face's text models as hosts: BERT's kin (post-LN), mT5 and NLLB's encoder (pre-LN).

Shape notation: b batch, n tokens, d the layer's width, f the FFN's hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from mwactl.backbone.branches import with_branches
from mwactl.backbone.contract import Branch, FeedForward, Modality
from mwactl_clip.block_site import BlockSite, feed_forward_of, form_of, linear_maps


class BertSite(BlockSite):
    """The output part of a BERT-like layer; the FFN begins in the part before it."""

    def __init__(self, tower: Modality, depth: int, layer: Any) -> None:
        form = form_of(layer.output.LayerNorm)
        super().__init__(tower, depth, module=layer.output, block=layer, forward=_bert_output, **form)
        self._layer = layer

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """Its FFN, which reads x1 as it is."""
        intermediate, output = self._layer.intermediate, self._layer.output
        return feed_forward_of(None, intermediate.dense, intermediate.intermediate_act_fn, None, output.dense, None)

    def attention_linears(self, modality: Modality) -> Sequence[nn.Linear]:
        """Query, key, value and output."""
        attention = self._layer.attention
        return linear_maps(attention.self, attention.output)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Normalise `x1 + branch(x1)`: the output part gets x1 in place of hidden units, and `branch` reads it."""
        self._layer.intermediate, self._layer.output.dense = nn.Identity(), branch


class T5Site(BlockSite):
    """The FFN part of a T5 block. Nothing folds into it: its norm does not subtract the mean."""

    def __init__(self, tower: Modality, depth: int, block: Any) -> None:
        part, norm = block.layer[-1], block.layer[-1].layer_norm
        form = {"width": norm.weight.shape[0], "eps": float(norm.variance_epsilon)}
        super().__init__(tower, depth, module=part, block=block, forward=_t5_feed_forward, **form)
        self._attention = block.layer[0].SelfAttention

    def attention_linears(self, modality: Modality) -> Sequence[nn.Linear]:
        """Query, key, value and output."""
        return linear_maps(self._attention)


class M2M100Site(BlockSite):
    """An encoder layer of M2M-100, which NLLB is."""

    def __init__(self, tower: Modality, depth: int, layer: Any) -> None:
        super().__init__(tower, depth, module=layer, forward=_m2m_100_layer, **form_of(layer.final_layer_norm))
        self._layer = layer

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """Its FFN."""
        layer = self._layer
        return feed_forward_of(layer.final_layer_norm, layer.fc1, layer.activation_fn, None, layer.fc2, None)

    def attention_linears(self, modality: Modality) -> Sequence[nn.Linear]:
        """Query, key, value and output."""
        return linear_maps(self._layer.self_attn)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Compute `x2 = x1 + branch(x1)`."""
        layer = self._layer
        layer.final_layer_norm, layer.fc1, layer.activation_fn = nn.Identity(), nn.Identity(), nn.Identity()
        layer.fc2 = branch


def follow_precision(encoder: Any) -> None:
    """Let M2M-100's table of positions, which is no parameter, be added in the precision that its words are held in."""
    words = encoder.embed_tokens
    encoder.embed_positions.register_forward_hook(lambda _, args, positions: positions.to(words.weight.dtype))


@dataclass(frozen=True)
class TextHost:
    """A kind of text model.

    Args:
        layers: Where its layers are.
        site: What makes a site of one.
        facts: What its configuration says beyond its tensors' shapes.
    """

    layers: str
    site: Callable[[Modality, int, Any], BlockSite]
    facts: tuple[str, ...]


_BERT = TextHost(
    "encoder.layer", BertSite, ("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "pad_token_id")
)
#: By transformers' `model_type`; open_clip knows no other.
TEXT_HOSTS = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "mt5": TextHost(
        "block",
        T5Site,
        ("model_type", "feed_forward_proj", "layer_norm_epsilon", "num_heads", "relative_attention_max_distance",
         "pad_token_id"),
    ),
    "m2m_100": TextHost(
        "layers",
        M2M100Site,
        ("model_type", "activation_function", "encoder_attention_heads", "scale_embedding", "pad_token_id"),
    ),
}  # fmt: skip


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


def _t5_feed_forward(part: Any, extractor: Branch | None, enhancer: Branch | None, hidden_states: Tensor) -> Tensor:
    """x1 [b, n, d] -> [b, n, d]."""
    x2 = hidden_states + part.dropout(part.DenseReluDense(part.layer_norm(hidden_states)))
    return with_branches(hidden_states, x2, extractor, enhancer)


def _m2m_100_layer(
    layer: Any, extractor: Branch | None, enhancer: Branch | None, hidden_states: Tensor,
    attention_mask: Tensor | None, **options: Any,
) -> Tensor:  # fmt: skip
    """[b, n, d] -> [b, n, d]."""
    normed = layer.self_attn_layer_norm(hidden_states)
    attended, _ = layer.self_attn(hidden_states=normed, attention_mask=attention_mask, **options)
    x1 = hidden_states + dropout(attended, p=layer.dropout, training=layer.training)
    hidden = layer.activation_fn(layer.fc1(layer.final_layer_norm(x1)))  # [b, n, d] -> [b, n, f]
    hidden = dropout(hidden, p=layer.activation_dropout, training=layer.training)
    x2 = x1 + dropout(layer.fc2(hidden), p=layer.dropout, training=layer.training)
    x2 = with_branches(x1, x2, extractor, enhancer)
    if x2.dtype == torch.float16:  # as transformers does it: no token of a deep encoder overflows
        largest = torch.finfo(x2.dtype).max - 1000
        x2 = x2.clamp(-largest, largest)
    return x2
