"""BEiT-3 as a `Backbone`.

Shape notation: b batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mwactl.backbone.contract import Modality, Site
from mwactl.backbone.layer_site import layer_sites
from mwactl.backbone.packed import PackedBackbone
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl_beit3.model import EPS, Beit3Retrieval
from mwactl_beit3.tokenizer import PADDING, Beit3Tokenizer


class Beit3Backbone(PackedBackbone):
    """BEiT-3 behind the contract.

    Args:
        spec: Its name.
        weights: Where its weights come from.
        model: On the CPU in fp32, or on the meta device.
        tokenizer: None on the meta device, where no caption is ever read.
        lacking: The model's parameters that the weights file does not hold.
    """

    model: Beit3Retrieval

    def __init__(
        self,
        spec: BackboneSpec,
        weights: WeightsUsed,
        model: Beit3Retrieval,
        tokenizer: Beit3Tokenizer | None,
        lacking: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(spec, weights, model, model.beit3.config, padding_id=PADDING, lacking=lacking)
        self._tokenizer = tokenizer

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
        return layer_sites(self.model.beit3.encoder.layers, width=self.embedding_width, eps=EPS)

    @property
    def context_length(self) -> int:
        """The longest caption in tokens, with its two special ones."""
        return self.model.beit3.config.context_length

    def head_parameter_names(self) -> set[str]:
        """The two projections."""
        return {"model.vision_head.weight", "model.language_head.weight"}

    def architecture(self) -> dict[str, Any]:
        """Sizes, epsilon, activation, picture normalisation and the tokenizer's digest."""
        return super().architecture() | {
            "eps": EPS,
            "activation": "gelu",
            "context_length": self.context_length,
            "tokenizer": None if self._tokenizer is None else self._tokenizer.sha256,
        }
