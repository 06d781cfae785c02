"""BEiT-3 for retrieval: one multiway encoder, every sub-module twice, for pictures (A) and for text (B).

Parameter names are those of the official checkpoints. Tokens are packed without padding (`mwactl.backbone.packing`);
which expert a token takes follows from the stream it is in, so no split position is kept anywhere.

Shape notation: b sequences, t packed tokens, p patches of a picture, d width, f hidden width of the FFN, h heads,
c channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from mwactl.backbone import contract
from mwactl.backbone.contract import Modality
from mwactl.backbone.initial import normal_, truncated_normal_
from mwactl.backbone.layer_site import HostLayer
from mwactl.backbone.norm import LayerNorm
from mwactl.backbone.packing import PackedTokens, Run, Runs, asking, attend
from mwactl.backbone.recompute import gelu_norm
from mwactl_beit3.sizes import POSITION_OFFSET, Beit3Config

EXPERTS: dict[Modality, str] = {"image": "A", "text": "B"}
EPS = 1e-5
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)

#: The packed tokens of each modality, [t, d], in the order of a run's lengths: pictures before text.
Streams = dict[Modality, Tensor]


def multiway(make: Callable[[], nn.Module]) -> nn.ModuleDict:
    """The same module twice: `A` for pictures, `B` for text."""
    return nn.ModuleDict({expert: make() for expert in EXPERTS.values()})


def by_expert(module: Any, streams: Streams) -> Streams:
    """Each stream through its own expert."""
    return {modality: module[EXPERTS[modality]](rows) for modality, rows in streams.items()}


class SelfAttention(nn.Module):
    """Attention with a LayerNorm before its output projection (sub-LN); joint where a sequence has two streams."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self._heads = config.heads
        width = config.width
        self.k_proj = multiway(lambda: nn.Linear(width, width))
        self.v_proj = multiway(lambda: nn.Linear(width, width))
        self.q_proj = multiway(lambda: nn.Linear(width, width))
        self.out_proj = multiway(lambda: nn.Linear(width, width))
        self.inner_attn_ln = multiway(lambda: LayerNorm(width, eps=EPS))

    def forward(self, streams: Streams, runs: Runs, *, only_first: bool) -> Streams:
        """Normalised tokens, [t, d] a stream -> what attention adds to them, or to the first of each sequence."""
        queries, query_runs = asking(streams, runs, only_first=only_first)
        mixed = attend(
            self._by_head(self.q_proj, queries),
            self._by_head(self.k_proj, streams),
            self._by_head(self.v_proj, streams),
            runs,
            query_runs=query_runs,
        )
        return by_expert(self.out_proj, by_expert(self.inner_attn_ln, dict(zip(queries, mixed, strict=True))))

    def _by_head(self, projection: nn.ModuleDict, streams: Streams) -> list[Tensor]:
        projected = by_expert(projection, streams).values()
        return [torch.unflatten(rows, -1, (self._heads, -1)) for rows in projected]  # [t, d] -> [t, h, c]


class FeedForward(nn.Module):
    """Two linear maps with GELU and a LayerNorm (sub-LN) between them."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)
        self.ffn_layernorm = LayerNorm(config.hidden, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[t, d] -> [t, d]."""
        hidden = gelu_norm(self.fc1(x), self.ffn_layernorm)  # [t, d] -> [t, f]
        out: Tensor = self.fc2(hidden)  # [t, f] -> [t, d]
        return out


class EncoderLayer(HostLayer):
    """Attention and FFN, both pre-LN; the place where MultiWay-Adapter modules attach."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = multiway(lambda: LayerNorm(config.width, eps=EPS))
        self.ffn = multiway(lambda: FeedForward(config))
        self.final_layer_norm = multiway(lambda: LayerNorm(config.width, eps=EPS))

    def forward(self, streams: Streams, runs: Runs, *, only_first: bool = False) -> Streams:
        """[t, d] a stream -> [t, d] a stream; `only_first`: of a single stream, each sequence's first token [b, d]."""
        attended = self.self_attn(by_expert(self.self_attn_layer_norm, streams), runs, only_first=only_first)
        residual, _ = asking(streams, runs, only_first=only_first)
        x1 = {modality: rows + attended[modality] for modality, rows in residual.items()}
        return {modality: self.after_attention(modality, rows) for modality, rows in x1.items()}

    def after_attention(self, modality: Modality, x1: Tensor) -> Tensor:
        """This modality's expert, and the modules."""
        expert = EXPERTS[modality]
        return self.adapted(modality, x1, x1 + self.ffn[expert](self.final_layer_norm[expert](x1)))

    def attention_linears(self, modality: Modality) -> list[nn.Linear]:
        """The four projections of this modality's expert."""
        attention: Any = self.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
        return [projection[EXPERTS[modality]] for projection in projections]

    def feed_forward(self, modality: Modality) -> contract.FeedForward | None:
        """The FFN of this modality's expert: pre-LN and sub-LN."""
        norm, ffn = self.final_layer_norm[EXPERTS[modality]], self.ffn[EXPERTS[modality]]
        if not isinstance(norm, LayerNorm) or not isinstance(ffn, FeedForward):
            return None
        return contract.FeedForward(norm, ffn.fc1, gelu, ffn.ffn_layernorm, ffn.fc2, scale=None)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """`branch` reads what attention left, and normalises it itself."""
        self.final_layer_norm[EXPERTS[modality]], self.ffn[EXPERTS[modality]] = nn.Identity(), branch


class Encoder(nn.Module):
    """Position tables, layers and the last LayerNorm."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        rows = {"A": config.patches + 1 + POSITION_OFFSET, "B": config.text_positions}
        self.embed_positions = nn.ModuleDict(
            {expert: nn.Embedding(count, config.width) for expert, count in rows.items()}
        )
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.layer_norm = multiway(lambda: LayerNorm(config.width, eps=EPS))

    def forward(self, streams: Streams, runs: Runs, *, only_first: bool) -> Streams:
        """Embedded tokens [t, d] a stream -> features, [t, d] a stream or [b, d] of the first tokens.

        With `only_first`, the last layer computes nothing for the other tokens: exact, since nothing reads them.
        """
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            streams = layer(streams, runs, only_first=only_first and index == last)
        return by_expert(self.layer_norm, streams)


class VisionEmbedding(nn.Module):
    """Patches by a strided convolution, with a class token before them."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        #: Stands for masked patches in pre-training only; kept because every official file holds it.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))

    def forward(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, 1 + p, d]."""
        patches = self.proj(pixels).flatten(2).transpose(1, 2)  # [b, d, h/16, w/16] -> [b, p, d], row by row
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1).to(patches.dtype), patches], dim=1)


class Beit3(nn.Module):
    """Embeddings and encoder."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.config = config
        self.text_embed = nn.Embedding(config.vocabulary, config.width)
        self.vision_embed = VisionEmbedding(config)
        self.encoder = Encoder(config)

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b·(1 + p), d].

        Raises:
            ValueError: The pictures are not of the model's size.
        """
        size = self.config.image_size
        if pixels.shape[1:] != (3, size, size):
            raise ValueError(f"pictures of [3, {size}, {size}] expected, not {list(pixels.shape[1:])}")
        table: Any = self.encoder.embed_positions["A"]
        embedded: Tensor = self.vision_embed(pixels) + table.weight[POSITION_OFFSET:]
        return embedded.flatten(0, 1)  # [b, 1 + p, d] -> [b·(1 + p), d]

    def embed_text(self, text: PackedTokens) -> Tensor:
        """Packed ids [t] -> [t, d]. No factor and no LayerNorm on the embedding."""
        table: Any = self.encoder.embed_positions["B"]
        embedded: Tensor = self.text_embed(text.ids) + table(text.positions + POSITION_OFFSET)
        return embedded

    def encode_pictures(self, pixels: Tensor, *, only_first: bool = False) -> Tensor:
        """[b, 3, h, w] -> [b, 1 + p, d], or the class tokens' features [b, d]."""
        # `shape[0]`, not `len`, here and below: a traced number of pictures stays any number.
        runs = (Run(pixels.shape[0], (1 + self.config.patches,)),)
        rows: Tensor = self.encoder({"image": self.embed_pictures(pixels)}, runs, only_first=only_first)["image"]
        # [b·(1 + p), d] -> [b, 1 + p, d]
        return rows if only_first else torch.unflatten(rows, 0, (pixels.shape[0], -1))

    def encode_text(self, text: PackedTokens, *, only_first: bool = False) -> Tensor:
        """Packed text -> features in packed order: [t, d], or of the first tokens [b, d]."""
        rows: Tensor = self.encoder({"text": self.embed_text(text)}, text.runs, only_first=only_first)["text"]
        return rows

    def encode_pairs(self, pixels: Tensor, text: PackedTokens) -> Streams:
        """Each picture and its caption as one sequence (fused).

        Returns:
            `image` [b·(1 + p), d] and `text` [t, d], both in the text's packed order.
        """
        length = 1 + self.config.patches
        runs = tuple(Run(run.count, (length, *run.lengths)) for run in text.runs)
        streams: Streams = {"image": self.embed_pictures(pixels[text.order]), "text": self.embed_text(text)}
        fused: Streams = self.encoder(streams, runs, only_first=False)
        return fused


class Beit3Retrieval(nn.Module):
    """BEiT-3 with its two projections into the shared space and its temperature."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.beit3 = Beit3(config)
        self.language_head = nn.Linear(config.width, config.width, bias=False)
        self.vision_head = nn.Linear(config.width, config.width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> retrieval embeddings [b, d], not normalised."""
        embedding: Tensor = self.vision_head(self.beit3.encode_pictures(pixels, only_first=True))
        return embedding

    def embed_text(self, text: PackedTokens) -> Tensor:
        """Packed text -> retrieval embeddings [b, d] in the given order, not normalised."""
        embedding: Tensor = self.language_head(text.restore(self.beit3.encode_text(text, only_first=True)))
        return embedding


def initialise(model: Beit3Retrieval) -> None:
    """The original's random values, for every parameter of an allocated model.

    Linear maps from a normal of 0.02 that is cut at ±0.02, their biases zero; the text embedding with deviation
    d^-½; the two special tokens zero; position tables, LayerNorms and the convolution as torch does it.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            initialise_linear(module)
        elif isinstance(module, nn.Embedding):
            normal_(module.weight, std=1)
        elif isinstance(module, nn.LayerNorm | nn.Conv2d):
            module.reset_parameters()
    embedding = model.beit3.vision_embed
    normal_(model.beit3.text_embed.weight, std=model.beit3.config.width**-0.5)
    nn.init.zeros_(embedding.cls_token)
    nn.init.zeros_(embedding.mask_token)
    nn.init.constant_(model.logit_scale, INITIAL_LOGIT_SCALE)


def initialise_linear(linear: nn.Linear) -> None:
    """Weights between -0.02 and 0.02, no bias."""
    truncated_normal_(linear.weight, std=0.02, bound=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
