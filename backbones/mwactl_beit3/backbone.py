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
from mwactl.backbone.portable import Portable, no_older_than_here
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.backbone.square import portable_square
from mwactl.backbone.store import find_tokenizer
from mwactl_beit3.model import EPS, Beit3Retrieval
from mwactl_beit3.tokenizer import PADDING, Beit3Tokenizer, read_tokenizer


class Beit3Backbone(PackedBackbone):
    """BEiT-3 behind the contract.

    Args:
        spec: Its name.
        weights: Where its weights come from.
        model: On the CPU in fp32, or on the meta device.
        tokenizer: None: it is looked for when it is needed first, as it is for a model without weights.
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
            NotFoundError: The backbone was built without weights, and its tokenizer is not on this machine.
        """
        return self._read_tokenizer(captions, self.context_length)

    def portable(self) -> Portable:
        """The picture transform and the tokenizer as data.

        Raises:
            NotFoundError: As `tokenize`.
        """
        text = self._read_tokenizer.portable(self.context_length)
        files = {text["file"]: self._read_tokenizer.model}
        return Portable(portable_square(self.image_size[0]), text, files, no_older_than_here("sentencepiece"))

    @property
    def _read_tokenizer(self) -> Beit3Tokenizer:
        if self._tokenizer is None:
            file = find_tokenizer(self.spec, beside=self.weights.path, download=False)
            self._tokenizer = read_tokenizer(file, self.spec.name, self.model.beit3.config.vocabulary)
        return self._tokenizer

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
            "tokenizer": self._read_tokenizer.sha256,
        }
