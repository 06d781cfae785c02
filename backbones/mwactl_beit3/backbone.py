"""BEiT-3 as a `Backbone`.

Shape notation: b batch, h and w pixels, s tokens, e the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from mwactl.backbone.contract import Augmentation, Backbone, ImageTransform, Modality, Site
from mwactl.backbone.packing import pack
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.backbone.square import MEAN, STD, square_transform
from mwactl_beit3.model import EPS, Beit3Retrieval
from mwactl_beit3.sites import LayerSite
from mwactl_beit3.sizes import Beit3Config
from mwactl_beit3.tokenizer import PADDING, Beit3Tokenizer


class Beit3Backbone(Backbone):
    """BEiT-3 behind the contract.

    Args:
        spec: Its name.
        weights: Where its weights come from.
        model: On the CPU in fp32, or on the meta device.
        tokenizer: None on the meta device, where no caption is ever read.
        lacking: The model's parameters that the weights file does not hold.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        weights: WeightsUsed,
        model: Beit3Retrieval,
        tokenizer: Beit3Tokenizer | None,
        lacking: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(spec, weights)
        self.model = model
        self._tokenizer = tokenizer
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
        """Captions -> token ids [b, 64].

        Raises:
            ValueError: The backbone was built without weights, and so without its tokenizer.
        """
        if self._tokenizer is None:
            raise ValueError(f"{self.spec.name} was built without its tokenizer")
        return self._tokenizer(captions, self.context_length)

    def sites(self, modalities: Sequence[Modality] = ("image", "text")) -> list[Site]:
        """One a layer: both modalities pass through each."""
        layers: Any = self.model.beit3.encoder.layers
        return [LayerSite(depth, layer, self._config.width) for depth, layer in enumerate(layers)]

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
        return self._config.context_length

    @property
    def embedding_width(self) -> int:
        """e."""
        return self._config.width

    def head_parameter_names(self) -> set[str]:
        """The two projections."""
        return {"model.vision_head.weight", "model.language_head.weight"}

    def untrained_parameter_names(self) -> set[str]:
        """The heads and the temperature, where the weights come from pre-training without them."""
        return {f"model.{name}" for name in self._lacking}

    def architecture(self) -> dict[str, Any]:
        """Sizes, epsilon, activation, picture normalisation and the tokenizer's digest."""
        return {
            "family": self.spec.family,
            **asdict(self._config),
            "eps": EPS,
            "activation": "gelu",
            "preprocess": {"mean": MEAN, "std": STD, "resize": "square, bicubic"},
            "context_length": self.context_length,
            "tokenizer": None if self._tokenizer is None else self._tokenizer.sha256,
        }

    @property
    def _config(self) -> Beit3Config:
        return self.model.beit3.config
