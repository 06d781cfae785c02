"""VLMo as a `Backbone`.

Shape notation: b batch, s tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mwactl.backbone.contract import Modality, Site
from mwactl.backbone.layer_site import layer_sites
from mwactl.backbone.packed import PackedBackbone
from mwactl.backbone.portable import Portable, no_older_than_here
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.backbone.square import portable_square
from mwactl.files import sha256_file
from mwactl_vlmo.model import EPS, TEXT_EPS, Vlmo
from mwactl_vlmo.tokenizer import PADDING, VlmoTokenizer


class VlmoBackbone(PackedBackbone):
    """VLMo behind the contract.

    Args:
        spec: Its name.
        weights: Where its weights come from.
        model: On the CPU in fp32, or on the meta device.
        vocabulary: The tokenizer's file.
        lacking: The model's parameters that the weights file does not hold.
    """

    model: Vlmo

    def __init__(
        self,
        spec: BackboneSpec,
        weights: WeightsUsed,
        model: Vlmo,
        vocabulary: Path,
        lacking: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(spec, weights, model, model.config, padding_id=PADDING, lacking=lacking)
        self._vocabulary = vocabulary

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions -> token ids [b, s] by BERT's WordPiece."""
        return self._tokenizer(captions, self.context_length)

    def portable(self) -> Portable:
        """The picture transform and the tokenizer as data."""
        text, file = self._tokenizer.portable(self.context_length)
        return Portable(
            portable_square(self.image_size[0]), text, {text["file"]: file}, no_older_than_here("tokenizers")
        )

    def sites(self, modalities: Sequence[Modality] = ("image", "text")) -> list[Site]:
        """One a block: both modalities pass through each."""
        return layer_sites(self.model.transformer.blocks, width=self.embedding_width, eps=EPS)

    @property
    def context_length(self) -> int:
        """The longest caption in tokens, with its two special ones."""
        return self.model.config.text_length

    def head_parameter_names(self) -> set[str]:
        """The two projections."""
        return {"model.itc_image_proj.fc.weight", "model.itc_text_proj.fc.weight"}

    def architecture(self) -> dict[str, Any]:
        """Sizes, epsilons, activation, picture normalisation and the vocabulary's digest."""
        return super().architecture() | {
            "eps": EPS,
            "text_eps": TEXT_EPS,
            "activation": "gelu",
            "tokenizer": sha256_file(self._vocabulary),
        }

    @cached_property
    def _tokenizer(self) -> VlmoTokenizer:
        return VlmoTokenizer(self._vocabulary)
