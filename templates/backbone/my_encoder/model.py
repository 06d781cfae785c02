"""The network: a tower of transformer blocks, for a picture's patches or for a caption's tokens.

Shapes: b batch, n tokens of a sequence, d width, h heads, c = d/h, e the shared space.
"""

from collections import OrderedDict

import torch
from mwactl.backbone.contract import FeedForward
from mwactl.backbone.layer_site import HostLayer
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

WIDTH, LAYERS, HEADS, EMBEDDING, EPS = 64, 3, 4, 48, 1e-6


class Block(HostLayer):
    """A pre-LN transformer block: the place where modules attach."""

    def __init__(self, modality):
        super().__init__()
        self.modality = modality
        self.norm, self.qkv = nn.LayerNorm(WIDTH, eps=EPS), nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        parts = {"norm": nn.LayerNorm(WIDTH, eps=EPS), "fc1": nn.Linear(WIDTH, 4 * WIDTH), "activation": nn.GELU()}
        self.ffn = nn.Sequential(OrderedDict(parts, fc2=nn.Linear(4 * WIDTH, WIDTH)))

    def forward(self, x, padding):
        """[b, n, d] -> [b, n, d]; nothing attends to `padding`, [b, n] or None."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1))  # [b, n, 3·d] -> [b, n, 3, h, c]
        seen = None if padding is None else ~padding[:, None, None]  # [b, n] -> [b, 1, 1, n]
        mixed = scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), attn_mask=seen)  # [b, h, n, c]
        x1 = x + self.proj(mixed.transpose(1, 2).flatten(2))  # [b, h, n, c] -> [b, n, d]
        return self.after_attention(self.modality, x1)

    def after_attention(self, modality, x1):
        """What acts on each token: the FFN, and the modules where there are any."""
        return self.adapted(modality, x1, x1 + self.ffn(x1))

    def feed_forward(self, modality):
        """What `mwactl merge` folds a Knowledge Extractor into, and LoRA sits beside."""
        norm, fc1, activation, fc2 = self.ffn
        return FeedForward(norm, fc1, activation, inner_norm=None, fc2=fc2, scale=None)

    def replace_feed_forward(self, modality, branch):
        self.ffn = branch

    def attention_linears(self, modality):
        """What LoRA sits beside too."""
        return [self.qkv, self.proj]


class Tower(nn.Module):
    """Blocks, and the projection into the shared space."""

    def __init__(self, modality, tokens):
        super().__init__()
        self.positions = nn.Parameter(torch.empty(tokens, WIDTH))
        self.blocks = nn.ModuleList(Block(modality) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.head = nn.Linear(WIDTH, EMBEDDING, bias=False)

    def forward(self, x, padding=None):
        """Embedded tokens [b, n, d] -> [b, e], of the first one."""
        x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x, padding)
        return self.head(self.norm(x[:, 0]))
