"""The network behind mwactl's contract: weights, transform, tokenizer, sites.

Shapes: b batch, s tokens of a caption, p patches of a picture, d width, e the shared space.
"""

import math

import torch
from mwactl.backbone.captions import caption_rows
from mwactl.backbone.contract import Backbone
from mwactl.backbone.initial import normal_
from mwactl.backbone.layer_site import LayerSite
from mwactl.backbone.matching import load_strictly
from mwactl.backbone.portable import Portable, no_older_than_here
from mwactl.backbone.spec import WeightsUsed
from mwactl.backbone.square import portable_square, square_transform
from mwactl.backbone.weights import resolve_weights
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from torch.nn.functional import pad

from my_encoder import NAME
from my_encoder.model import EMBEDDING, EPS, HEADS, WIDTH, Tower

PIXELS, PATCH, LENGTH = 64, 16, 64
PADDING, BEGIN, END, FIRST_BYTE = range(4)  # a caption is its bytes, each an id from FIRST_BYTE on


def build(spec, request):
    """The model in fp32 on the CPU, with random weights or those of a file."""
    used, state = resolve_weights(spec, request)
    with torch.device("meta"):
        backbone = MyBackbone(spec, used)
    if used.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(used.seed)
            state = {name: initial_value(name, tensor.shape) for name, tensor in backbone.state_dict().items()}
    load_strictly(backbone, state, name=spec.name, where=str(used.path))
    return backbone


def build_without_weights(spec):
    with torch.device("meta"):
        return MyBackbone(spec, WeightsUsed("none"))


def initial_value(name, shape):
    """Random weights: the same on every machine, since they are a backbone's identity."""
    if len(shape) > 1:
        return normal_(torch.empty(shape), std=shape[1:].numel() ** -0.5)
    return torch.full(shape, math.log(1 / 0.07) if not shape else float(name.endswith("norm.weight")))


class TowerSite(LayerSite):
    """A block, through which one modality passes."""

    def __init__(self, depth, block):
        super().__init__(depth, block, width=WIDTH, eps=EPS)
        self.name, self.modalities = f"{block.modality}/{depth}", (block.modality,)


class MyBackbone(Backbone):
    image_size, context_length, embedding_width = (PIXELS, PIXELS), LENGTH, EMBEDDING

    def __init__(self, spec, weights):
        super().__init__(spec, weights)
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.bytes = nn.Embedding(FIRST_BYTE + 256, WIDTH)
        tokens = {"image": 1 + (PIXELS // PATCH) ** 2, "text": LENGTH}
        self.towers = nn.ModuleDict({modality: Tower(modality, count) for modality, count in tokens.items()})
        self.temperature = nn.Parameter(torch.empty(()))
        ids = {byte: FIRST_BYTE + index for index, byte in enumerate(sorted(ByteLevel.alphabet()))}
        self.rules = Tokenizer(BPE(ids, merges=[]))
        self.rules.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
        self.eval().requires_grad_(False)

    def encode_image(self, pixels):
        patches = self.patches(pixels).flatten(2).transpose(1, 2)  # [b, 3, 64, 64] -> [b, p, d]
        return self.towers["image"](pad(patches, (0, 0, 1, 0)))  # the class token is its position: [b, 1 + p, d]

    def encode_text(self, tokens):
        longest = tokens.shape[1] if tokens.is_meta else int((tokens != PADDING).sum(1).max())
        return self.encode_padded_text(tokens[:, :longest])  # what is padding in every row is not computed

    def encode_padded_text(self, tokens):
        return self.towers["text"](self.bytes(tokens), tokens == PADDING)  # [b, s] -> [b, e]

    def image_transform(self, augmentation=None):
        return square_transform(PIXELS, augmentation)

    def tokenize(self, captions):
        rows = (self.rules.encode(caption).ids for caption in captions)
        return caption_rows(rows, LENGTH, begin=BEGIN, end=END, padding=PADDING)

    def portable(self):
        """Transform and tokenizer as data: what an exported model has instead of this file."""
        text = {"library": "tokenizers", "file": "tokenizer.json", "clean": [], "replace": [], "trim": True}
        text |= {"begin": BEGIN, "end": END, "padding": PADDING, "length": LENGTH}
        files = {text["file"]: self.rules.to_str().encode()}
        return Portable(portable_square(PIXELS), text, files, no_older_than_here("tokenizers"))

    def sites(self, modalities=("image", "text")):
        towers = [self.towers[modality] for modality in ("image", "text") if modality in modalities]
        return [TowerSite(depth, block) for tower in towers for depth, block in enumerate(tower.blocks)]

    @property
    def logit_scale(self):
        return self.temperature

    def head_parameter_names(self):
        return {"towers.image.head.weight", "towers.text.head.weight"}

    def architecture(self):
        """What changes the result and is no tensor: part of a backbone's identity."""
        facts = {"family": NAME, "heads": HEADS, "eps": EPS, "activation": "gelu", "tokenizer": "bytes"}
        return facts | {"pixels": PIXELS, "transform": "square, bicubic"}
