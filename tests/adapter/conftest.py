"""A backbone of a few hundred numbers that knows no library: two towers, or blocks that both modalities share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel
from mwactl.backbone.contract import Augmentation, Backbone, Branch, ImageTransform, Modality, Site
from mwactl.backbone.spec import BackboneSpec, WeightsUsed

WIDTH, EMBEDDING, CONTEXT = 12, 6, 8


class TinyBlock(nn.Module):
    """A pre-LN block whose "attention" is a linear map; the branches live in plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.ffn = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.extractors: Mapping[Modality, Branch] = {}
        self.enhancers: Mapping[Modality, Branch] = {}

    def forward(self, x: Tensor, modality: Modality) -> Tensor:
        x1 = x + self.dropout(torch.tanh(self.mix(x)))
        x2 = x1 + self.ffn(self.norm(x1))
        if modality in self.extractors:
            x2 = x2 + self.extractors[modality](x1)
        return x2 + self.enhancers[modality](x2) if modality in self.enhancers else x2


class TinySite(Site):
    """The site of one `TinyBlock`."""

    def __init__(self, name: str, depth: int, modalities: tuple[Modality, ...], block: TinyBlock) -> None:
        super().__init__(name, depth=depth, width=WIDTH, eps=1e-6, modalities=modalities)
        self._host = block

    def attach(self, extractors: Mapping[Modality, Branch], enhancers: Mapping[Modality, Branch]) -> None:
        self._host.extractors, self._host.enhancers = dict(extractors), dict(enhancers)

    def detach(self) -> None:
        self._host.extractors, self._host.enhancers = {}, {}


class TinyBackbone(Backbone):
    """`joint`: both modalities pass through the same blocks, as in BEiT-3; else a tower each."""

    def __init__(self, *, depth: int = 2, joint: bool = False, untrained: Sequence[str] = (), bias: bool = False):
        super().__init__(BackboneSpec("tiny", "fake", "tiny"), WeightsUsed("random", seed=0))
        self.patches = nn.Linear(3 * 16, WIDTH)
        self.words = nn.Embedding(300, WIDTH)
        self.image_blocks = nn.ModuleList(TinyBlock() for _ in range(depth))
        self.text_blocks = self.image_blocks if joint else nn.ModuleList(TinyBlock() for _ in range(depth))
        self.image_head = nn.Linear(WIDTH, EMBEDDING, bias=False)
        self.text_head = nn.Linear(WIDTH, EMBEDDING, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.6))
        self.offset = nn.Parameter(torch.tensor(-10.0)) if bias else None
        self._joint, self._untrained = joint, set(untrained)
        self.eval()

    def encode_image(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels.flatten(1))[:, None]
        for block in self.image_blocks:
            x = block(x, "image")
        return self.image_head(x.mean(1))  # type: ignore[no-any-return]

    def encode_text(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        for block in self.text_blocks:
            x = block(x, "text")
        return self.text_head(x.mean(1))  # type: ignore[no-any-return]

    def encode_padded_text(self, tokens: Tensor) -> Tensor:
        return self.encode_text(tokens)

    def image_transform(self, augmentation: Augmentation | None = None) -> ImageTransform:
        raise NotImplementedError

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        return torch.tensor([[ord(letter) for letter in caption[:CONTEXT].ljust(CONTEXT)] for caption in captions])

    def sites(self, modalities: Sequence[Modality] = ("image", "text")) -> list[Site]:
        if self._joint:
            both: tuple[Modality, ...] = ("image", "text")
            return [TinySite(f"layer/{i}", i, both, block) for i, block in enumerate(_tiny(self.image_blocks))]
        towers: dict[Modality, nn.ModuleList] = {"image": self.image_blocks, "text": self.text_blocks}
        return [
            TinySite(f"{tower}/{i}", i, (tower,), block)
            for tower, blocks in towers.items()
            if tower in modalities
            for i, block in enumerate(_tiny(blocks))
        ]

    @property
    def logit_scale(self) -> nn.Parameter:
        return self.scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        return self.offset

    @property
    def image_size(self) -> tuple[int, int]:
        return (4, 4)

    @property
    def context_length(self) -> int:
        return CONTEXT

    @property
    def embedding_width(self) -> int:
        return EMBEDDING

    def head_parameter_names(self) -> set[str]:
        return {"image_head.weight", "text_head.weight"}

    def untrained_parameter_names(self) -> set[str]:
        return self._untrained

    def architecture(self) -> dict[str, Any]:
        return {"family": "fake"}


def _tiny(blocks: nn.ModuleList) -> list[TinyBlock]:
    return [block for block in blocks if isinstance(block, TinyBlock)]


@pytest.fixture
def tiny() -> Callable[..., TinyBackbone]:
    """tiny(depth=…, joint=…, untrained=…, bias=…): a backbone with seeded random values."""

    def build(**options: Any) -> TinyBackbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return TinyBackbone(**options)

    return build


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(300, (5, CONTEXT), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def train_a_little() -> Callable[[AdaptedModel], None]:
    """Move every trained parameter, as training would."""

    def move(model: AdaptedModel) -> None:
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in model.trainable().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    return move
