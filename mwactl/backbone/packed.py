"""What backbones have in common that encode packed tokens: one model for pictures of one square size and for captions.

Shape notation: b batch, h and w pixels, s tokens, e the shared space.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

from torch import Tensor, nn

from mwactl.backbone.contract import Augmentation, Backbone, ImageTransform
from mwactl.backbone.packing import PackedTokens, pack, with_padding
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.backbone.square import MEAN, STD, square_transform


class PackedModel(Protocol):
    """The model behind such a backbone."""

    logit_scale: nn.Parameter

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e], not normalised."""

    def embed_text(self, text: PackedTokens) -> Tensor:
        """Packed text -> [b, e] in the given order, not normalised."""


class PackedBackbone(Backbone):
    """A packed model behind the contract, all but its tokenizer and its sites.

    Args:
        spec: Its name.
        weights: Where its weights come from.
        model: On the CPU in fp32, or on the meta device.
        config: Its sizes, a frozen dataclass with `image_size` and `width`.
        padding_id: What fills captions up.
        lacking: The model's parameters that the weights file does not hold.
    """

    model: PackedModel

    def __init__(
        self,
        spec: BackboneSpec,
        weights: WeightsUsed,
        model: PackedModel,
        config: Any,
        *,
        padding_id: int,
        lacking: frozenset[str],
    ) -> None:
        super().__init__(spec, weights)
        self.model = model
        self._config = config
        self._padding_id = padding_id
        self._lacking = lacking
        self.eval().requires_grad_(False)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pictures [b, 3, h, w] -> [b, e], not normalised."""
        return self.model.embed_pictures(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> [b, e], not normalised. No padding is computed."""
        return self.model.embed_text(pack(tokens, self._padding_id))

    def encode_padded_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] with their padding -> [b, e], not normalised."""
        return self.model.embed_text(with_padding(tokens, self._padding_id))

    def image_transform(self, augmentation: Augmentation | None = None) -> ImageTransform:
        """Resized to the model's square, the aspect not kept."""
        return square_transform(self._config.image_size, augmentation)

    @property
    def logit_scale(self) -> nn.Parameter:
        """The official `logit_scale`."""
        return self.model.logit_scale

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w)."""
        return self._config.image_size, self._config.image_size

    @property
    def embedding_width(self) -> int:
        """e."""
        return int(self._config.width)

    def untrained_parameter_names(self) -> set[str]:
        """The heads and the temperature, where the weights come without them."""
        return {f"model.{name}" for name in self._lacking}

    def architecture(self) -> dict[str, Any]:
        """Family, sizes and picture normalisation; a family adds its own facts."""
        return {
            "family": self.spec.family,
            **asdict(self._config),
            "preprocess": {"mean": MEAN, "std": STD, "resize": "square, bicubic"},
        }
