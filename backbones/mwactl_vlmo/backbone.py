"""VLMo as a `Backbone`.

Shape notation: b batch, h and w pixels, s tokens, e the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mwactl.backbone.contract import Augmentation, Backbone, ImageTransform, Modality, Site
from mwactl.backbone.packing import pack
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.backbone.square import MEAN, STD, square_transform
from mwactl.files import sha256_file
from mwactl_vlmo.model import EPS, TEXT_EPS, Vlmo
from mwactl_vlmo.sites import BlockSite
from mwactl_vlmo.tokenizer import PADDING, VlmoTokenizer


class VlmoBackbone(Backbone):
    """VLMo behind the contract.

    Args:
        spec: Its name.
        weights: Where its weights come from.
        model: On the CPU in fp32, or on the meta device.
        vocabulary: The tokenizer's file.
        lacking: The model's parameters that the weights file does not hold.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        weights: WeightsUsed,
        model: Vlmo,
        vocabulary: Path,
        lacking: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(spec, weights)
        self.model = model
        self._config = model.config
        self._vocabulary = vocabulary
        self._lacking = lacking
        self.eval().requires_grad_(False)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pictures [b, 3, h, w] -> [b, e], not normalised."""
        return self.model.embed_pictures(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> [b, e], not normalised. No padding is computed."""
        return self.model.embed_text(pack(tokens, PADDING))

    def trim_tokens(self, tokens: Tensor) -> Tensor:
        """Cut the columns after the longest caption."""
        if tokens.is_meta:
            return tokens
        return tokens[:, : int((tokens != PADDING).sum(dim=1).max())]

    def image_transform(self, augmentation: Augmentation | None = None) -> ImageTransform:
        """Resized to the model's square, the aspect not kept."""
        return square_transform(self._config.image_size, augmentation)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions -> token ids [b, s] by BERT's WordPiece."""
        return self._tokenizer(captions, self.context_length)

    def sites(self, modalities: Sequence[Modality] = ("image", "text")) -> list[Site]:
        """One a block: both modalities pass through each."""
        blocks: Any = self.model.transformer.blocks
        return [BlockSite(depth, block, self._config.width) for depth, block in enumerate(blocks)]

    @property
    def logit_scale(self) -> nn.Parameter:
        """The official `logit_scale`."""
        return self.model.logit_scale

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w)."""
        return self._config.image_size, self._config.image_size

    @property
    def context_length(self) -> int:
        """The longest caption in tokens, with its two special ones."""
        return self._config.text_length

    @property
    def embedding_width(self) -> int:
        """e."""
        return self._config.width

    def head_parameter_names(self) -> set[str]:
        """The two projections."""
        return {"model.itc_image_proj.fc.weight", "model.itc_text_proj.fc.weight"}

    def untrained_parameter_names(self) -> set[str]:
        """The heads and the temperature, where the weights come without them."""
        return {f"model.{name}" for name in self._lacking}

    def architecture(self) -> dict[str, Any]:
        """Sizes, epsilons, activation, picture normalisation and the vocabulary's digest."""
        return {
            "family": self.spec.family,
            **asdict(self._config),
            "eps": EPS,
            "text_eps": TEXT_EPS,
            "activation": "gelu",
            "preprocess": {"mean": MEAN, "std": STD, "resize": "square, bicubic"},
            "tokenizer": sha256_file(self._vocabulary),
        }

    @cached_property
    def _tokenizer(self) -> VlmoTokenizer:
        return VlmoTokenizer(self._vocabulary)
