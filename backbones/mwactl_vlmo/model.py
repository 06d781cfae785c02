"""VLMo: one transformer with shared attention and an FFN expert for each modality.

Parameter names are those of the official checkpoints. Tokens are packed without padding (`mwactl.backbone.packing`);
which expert a token takes follows from the stream it is in.

Shape notation: b sequences, t packed tokens, n tokens of one sequence, p patches of a picture, d width, f hidden width
of the FFN, h heads, c channels of a head, l blocks, r rows of the bias table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from mwactl.backbone import contract
from mwactl.backbone.contract import Modality
from mwactl.backbone.initial import truncated_normal_
from mwactl.backbone.layer_site import HostLayer
from mwactl.backbone.norm import LayerNorm
from mwactl.backbone.packing import Bias, PackedTokens, Run, Runs, asking, attend, first_rows
from mwactl_vlmo.positions import bias_rows, relative_position_index
from mwactl_vlmo.sizes import VlmoConfig

EXPERTS: dict[Modality, str] = {"text": "text", "image": "imag"}
JOINT_EXPERT = "vl"
TOKEN_TYPES: dict[Modality, int] = {"text": 0, "image": 1}
EPS = 1e-6
TEXT_EPS = 1e-12
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)

#: The packed tokens of each modality, [t, d], in the order of a run's lengths: text before pictures.
Streams = dict[Modality, Tensor]


class PositionBias:
    """What one forward pass adds to its attention scores, block by block.

    Args:
        table: [r, l·h].
        index: Rows of the table for all text tokens, then all of a picture's.
        modalities: Of the streams, in their order.
        runs: How the streams are sequences.
        config: The sizes.
    """

    def __init__(
        self, table: Tensor, index: Tensor, modalities: tuple[Modality, ...], runs: Runs, config: VlmoConfig
    ) -> None:
        self._by_head = table.T.contiguous()  # [r, l·h] -> [l·h, r]
        self._heads = config.heads
        self._index = index.to(table.device)
        self._starts = [{"text": 0, "image": config.text_length}[modality] for modality in modalities]
        self._rows = [self._rows_of(run.lengths) for run in runs]

    def of_block(self, block: int, *, only_first: bool) -> Bias:
        """The bias of a block, as `attend` asks for it. `only_first`: the first token alone asks."""
        by_head = self._by_head[block * self._heads : (block + 1) * self._heads]

        def look_up(run: int) -> Tensor:
            rows = self._rows[run][: 1 if only_first else None]  # [n of queries, n]
            # A batch axis of one: without it torch takes a kernel that is half as fast.
            return by_head.index_select(1, rows.flatten()).view(1, self._heads, *rows.shape)

        return look_up

    def _rows_of(self, lengths: tuple[int, ...]) -> Tensor:
        device = self._index.device
        places = (torch.arange(length, device=device) for length in lengths)
        kept = torch.cat([start + place for start, place in zip(self._starts, places, strict=True)])
        return self._index[kept][:, kept]  # [n, n]


class SelfAttention(nn.Module):
    """Attention with the same weights for both modalities; joint where a sequence has two streams."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self._heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, streams: Streams, runs: Runs, bias: Bias | None, *, only_first: bool) -> Streams:
        """Normalised tokens, [t, d] a stream -> what attention adds to them, or to the first of each sequence."""
        added = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])  # keys have none
        parts = (self._by_head(self.qkv(rows), added) for rows in streams.values())
        query, key, value = zip(*parts, strict=True)
        queries, query_runs = asking(dict(zip(streams, query, strict=True)), runs, only_first=only_first)
        mixed = attend(list(queries.values()), key, value, runs, query_runs=query_runs, bias=bias)
        return {modality: self.proj(rows) for modality, rows in zip(streams, mixed, strict=True)}

    def _by_head(self, rows: Tensor, added: Tensor) -> tuple[Tensor, ...]:
        biased = rows + added.to(rows.dtype)
        # `shape[0]`, not `len`, here and below: a traced number of tokens stays any number.
        return biased.view(rows.shape[0], 3, self._heads, -1).unbind(1)  # [t, 3·d] -> three of [t, h, c]


class FeedForward(nn.Module):
    """Two linear maps with GELU between them."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[t, d] -> [t, d]."""
        out: Tensor = self.fc2(gelu(self.fc1(x)))  # [t, d] -> [t, f] -> [t, d]
        return out


class Block(HostLayer):
    """Attention and FFN experts, both pre-LN; the place where MultiWay-Adapter modules attach."""

    def __init__(self, config: VlmoConfig, *, joint: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.width, eps=EPS)
        self.attn = SelfAttention(config)
        self._experts = (*EXPERTS.values(), *([JOINT_EXPERT] if joint else []))
        for expert in self._experts:
            self.add_module(f"norm2_{expert}", LayerNorm(config.width, eps=EPS))
            self.add_module(f"mlp_{expert}", FeedForward(config))
        self.gamma_1: nn.Parameter | None
        self.gamma_2: nn.Parameter | None
        for gamma in ("gamma_1", "gamma_2"):
            factor = nn.Parameter(torch.full((config.width,), 0.1)) if config.layer_scale else None
            self.register_parameter(gamma, factor)
        #: Experts that hold their layer scale in their own weights.
        self._unscaled: set[str] = set()

    def forward(
        self, streams: Streams, runs: Runs, bias: Bias | None, *, joint: bool = False, only_first: bool = False
    ) -> Streams:
        """[t, d] a stream -> [t, d] a stream.

        Args:
            streams: The packed tokens.
            runs: How they are sequences.
            bias: What is added to the attention scores.
            joint: Every token takes the joint expert, where this block owns one.
            only_first: Of a single stream, compute each sequence's first token alone: [b, d].
        """
        normed: Streams = {modality: self.norm1(rows) for modality, rows in streams.items()}
        attended = self.attn(normed, runs, bias, only_first=only_first)
        residual, _ = asking(streams, runs, only_first=only_first)
        x1 = {modality: rows + _scaled(attended[modality], self.gamma_1) for modality, rows in residual.items()}
        return {modality: self.after_attention(modality, rows, joint=joint) for modality, rows in x1.items()}

    def after_attention(self, modality: Modality, x1: Tensor, *, joint: bool = False) -> Tensor:
        """The FFN, and the modules outside of its layer scale, which would make them ten times smaller at the start."""
        expert = JOINT_EXPERT if joint and JOINT_EXPERT in self._experts else EXPERTS[modality]
        norm, mlp = self.get_submodule(f"norm2_{expert}"), self.get_submodule(f"mlp_{expert}")
        gamma = None if expert in self._unscaled else self.gamma_2
        return self.adapted(modality, x1, x1 + _scaled(mlp(norm(x1)), gamma))

    def attention_linears(self, modality: Modality) -> list[nn.Linear]:
        """The projections that both modalities share."""
        return [self.attn.qkv, self.attn.proj]

    def feed_forward(self, modality: Modality) -> contract.FeedForward | None:
        """The FFN of this modality's expert; its layer scale is all experts'."""
        expert = EXPERTS[modality]
        norm, mlp = self.get_submodule(f"norm2_{expert}"), self.get_submodule(f"mlp_{expert}")
        if not isinstance(norm, LayerNorm) or not isinstance(mlp, FeedForward):
            return None
        return contract.FeedForward(norm, mlp.fc1, gelu, None, mlp.fc2, scale=self.gamma_2)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """`branch` normalises and scales by itself; the joint expert, where there is one, stays as it is."""
        expert = EXPERTS[modality]
        self.add_module(f"norm2_{expert}", nn.Identity())
        self.add_module(f"mlp_{expert}", branch)
        self._unscaled.add(expert)
        if self._unscaled.issuperset(self._experts):
            self.gamma_2 = None


def _scaled(added: Tensor, gamma: nn.Parameter | None) -> Tensor:
    return added if gamma is None else gamma * added


class PatchEmbedding(nn.Module):
    """Patches by a strided convolution."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, p, d], row by row."""
        patches: Tensor = self.proj(pixels)
        return patches.flatten(2).transpose(1, 2)  # [b, d, h/16, w/16] -> [b, p, d]


class Transformer(nn.Module):
    """The embedding of pictures, the blocks and the last LayerNorm."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        table = None if config.relative_positions else nn.Parameter(torch.zeros(1, 1 + config.patches, config.width))
        self.pos_embed: nn.Parameter | None
        self.register_parameter("pos_embed", table)
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(
            Block(config, joint=index >= config.first_joint_block) for index in range(config.layers)
        )
        self.norm = LayerNorm(config.width, eps=EPS)

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, 1 + p, d], without the token type."""
        patches: Tensor = self.patch_embed(pixels)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1).to(patches.dtype), patches], dim=1)
        return tokens if self.pos_embed is None else tokens + self.pos_embed

    def forward(
        self, streams: Streams, runs: Runs, bias: PositionBias | None, *, joint: bool, only_first: bool
    ) -> Streams:
        """Embedded tokens [t, d] a stream -> features, [t, d] a stream or [b, d] of the first tokens.

        With `only_first`, the last block computes nothing for the other tokens: exact, since nothing reads them.
        """
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            first = only_first and index == last
            added = None if bias is None else bias.of_block(index, only_first=first)
            streams = block(streams, runs, added, joint=joint, only_first=first)
        return {modality: self.norm(rows) for modality, rows in streams.items()}


class TextEmbedding(nn.Module):
    """BERT's embedding of words."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self._adds_positions = not config.relative_positions
        self.word_embeddings = nn.Embedding(config.vocabulary, config.width)
        #: In models with a relative bias every official file holds it, and nothing reads it.
        self.position_embeddings = nn.Embedding(config.text_length, config.width)
        #: BERT's own two segments, of which captions are the first; not the types of the model's modalities.
        self.token_type_embeddings = nn.Embedding(2, config.width)
        self.LayerNorm = LayerNorm(config.width, eps=TEXT_EPS)
        self.position_ids: Tensor
        self.register_buffer("position_ids", torch.arange(config.text_length)[None])

    def forward(self, text: PackedTokens) -> Tensor:
        """Packed ids [t] -> [t, d]."""
        embedded: Tensor = self.word_embeddings(text.ids) + self.token_type_embeddings.weight[0]
        if self._adds_positions:
            embedded = embedded + self.position_embeddings(text.positions)
        normed: Tensor = self.LayerNorm(embedded)
        return normed


class Head(nn.Module):
    """A linear map, under the name that the official files give it."""

    def __init__(self, width: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(width, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[b, d] -> [b, outputs]."""
        out: Tensor = self.fc(x)
        return out


class Pooler(nn.Module):
    """A linear map and tanh on a pair's first token."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[b, d] -> [b, d]."""
        return torch.tanh(self.dense(x))


class WordPrediction(nn.Module):
    """BERT's head for masked words."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {
                "dense": nn.Linear(config.width, config.width),
                "LayerNorm": LayerNorm(config.width, eps=TEXT_EPS),
            }
        )
        self.decoder = nn.Linear(config.width, config.vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, x: Tensor) -> Tensor:
        """[t, d] -> [t, vocabulary]."""
        transformed = self.transform["LayerNorm"](gelu(self.transform["dense"](x)))
        scores: Tensor = self.decoder(transformed) + self.bias
        return scores


class Vlmo(nn.Module):
    """VLMo with its projections into the shared space and its temperature.

    Args:
        config: The sizes.
        pretraining: With the heads of pre-training besides: matching, masked words, and the projections and the
            temperature of features that went through the joint experts.
    """

    def __init__(self, config: VlmoConfig, *, pretraining: bool = False) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.transformer = Transformer(config)
        self.text_embeddings = TextEmbedding(config)
        self.token_type_embeddings = nn.Embedding(len(TOKEN_TYPES), width)
        self.pooler = Pooler(config)
        self.itc_text_proj = Head(width, width, bias=False)
        self.itc_image_proj = Head(width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        table, index = None, None
        if config.relative_positions:
            rows = bias_rows(config.grid, config.bias_text_length)
            table = nn.Parameter(torch.zeros(rows, config.layers * config.heads))
            index = relative_position_index(config.grid, config.text_length, config.bias_text_length)
        self.relative_position_bias_table: nn.Parameter | None
        self.register_parameter("relative_position_bias_table", table)
        self._position_index: Tensor
        self.register_buffer("_position_index", index, persistent=False)
        if pretraining:
            self.itm_score = Head(width, 2, bias=True)
            self.mlm_score = WordPrediction(config)
            self.itc_vl_text_proj = Head(width, width, bias=False)
            self.itc_vl_image_proj = Head(width, width, bias=False)
            self.logit_vl_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    def embed_pictures(self, pixels: Tensor, *, joint: bool = False) -> Tensor:
        """[b, 3, h, w] -> embeddings [b, d], not normalised: retrieval's, or those of the joint experts."""
        project = self.itc_vl_image_proj if joint else self.itc_image_proj
        embedding: Tensor = project(self.encode_pictures(pixels, joint=joint, only_first=True))
        return embedding

    def embed_text(self, text: PackedTokens, *, joint: bool = False) -> Tensor:
        """Packed text -> embeddings [b, d] in the given order, not normalised."""
        project = self.itc_vl_text_proj if joint else self.itc_text_proj
        embedding: Tensor = project(text.restore(self.encode_text(text, joint=joint, only_first=True)))
        return embedding

    def encode_pictures(self, pixels: Tensor, *, joint: bool = False, only_first: bool = False) -> Tensor:
        """[b, 3, h, w] -> features [b, 1 + p, d], or of the class tokens [b, d]."""
        runs = (Run(pixels.shape[0], (1 + self.config.patches,)),)
        streams: Streams = {"image": self._picture_rows(pixels)}
        rows = self._encode(streams, runs, joint=joint, only_first=only_first)["image"]
        return rows if only_first else rows.view(pixels.shape[0], -1, rows.shape[1])  # [b·(1 + p), d] -> [b, 1 + p, d]

    def encode_text(self, text: PackedTokens, *, joint: bool = False, only_first: bool = False) -> Tensor:
        """Packed text -> features in packed order: [t, d], or of the first tokens [b, d]."""
        streams: Streams = {"text": self._text_rows(text)}
        return self._encode(streams, text.runs, joint=joint, only_first=only_first)["text"]

    def encode_pairs(self, pixels: Tensor, text: PackedTokens) -> Streams:
        """Each caption and its picture as one sequence (fused), with the joint experts where there are any.

        Returns:
            `text` [t, d] and `image` [b·(1 + p), d], both in the text's packed order.
        """
        length = 1 + self.config.patches
        runs = tuple(Run(run.count, (*run.lengths, length)) for run in text.runs)
        streams: Streams = {"text": self._text_rows(text), "image": self._picture_rows(pixels[text.order])}
        return self._encode(streams, runs, joint=True, only_first=False)

    def pool_pairs(self, features: Streams, text: PackedTokens) -> Tensor:
        """What `encode_pairs` gave -> one vector a pair, in the given order: [b, d]; `itm_score` judges it."""
        pooled: Tensor = self.pooler(text.restore(first_rows(features["text"], text.runs)))
        return pooled

    def _encode(self, streams: Streams, runs: Runs, *, joint: bool, only_first: bool) -> Streams:
        bias, table = None, self.relative_position_bias_table
        if table is not None:
            bias = PositionBias(table, self._position_index, tuple(streams), runs, self.config)
        features: Streams = self.transformer(streams, runs, bias, joint=joint, only_first=only_first)
        return features

    def _picture_rows(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b·(1 + p), d].

        Raises:
            ValueError: The pictures are not of the model's size.
        """
        size = self.config.image_size
        if pixels.shape[1:] != (3, size, size):
            raise ValueError(f"pictures of [3, {size}, {size}] expected, not {list(pixels.shape[1:])}")
        embedded = self.transformer.embed_pictures(pixels) + self.token_type_embeddings.weight[TOKEN_TYPES["image"]]
        return embedded.flatten(0, 1)  # [b, 1 + p, d] -> [b·(1 + p), d]

    def _text_rows(self, text: PackedTokens) -> Tensor:
        """Packed ids [t] -> [t, d].

        Raises:
            ValueError: A caption is longer than the model has positions.
        """
        longest = max(length for run in text.runs for length in run.lengths)
        if longest > self.config.text_length:
            raise ValueError(f"captions of at most {self.config.text_length} tokens expected, not {longest}")
        embedded: Tensor = self.text_embeddings(text) + self.token_type_embeddings.weight[TOKEN_TYPES["text"]]
        return embedded


def initial_value(name: str, like: Tensor) -> Tensor:
    """A random or constant value for one tensor of the model, by its name, from torch's random state.

    As the original: weights and tables of tokens from a normal of 0.02, cut where it does not matter; biases, the
    bias table and norms neutral; layer scales 0.1.
    """
    parent, _, leaf = name.rpartition(".")
    value = torch.empty(like.shape, dtype=like.dtype, device="cpu")
    if leaf in ("logit_scale", "logit_vl_scale"):
        return value.fill_(INITIAL_LOGIT_SCALE)
    if leaf == "position_ids":
        return torch.arange(value.numel()).view_as(value)
    if leaf.startswith("gamma_"):
        return value.fill_(0.1)
    if leaf in ("bias", "q_bias", "v_bias", "relative_position_bias_table"):
        return value.zero_()
    if "norm" in parent.rpartition(".")[2].lower():
        return value.fill_(1)
    return truncated_normal_(value, std=0.02, bound=2)
