"""What is checked: a backbone that can be had again and again, and what it is fed with.

Shape notation: b batch, h and w pixels, s tokens, e the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone.contract import Backbone, Modality, unit_rows
from mwactl.backbone.spec import BackbonePlugin, BackboneSpec, WeightsRequest
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import IncompatibleError

#: Of unit rows, in fp32: what another order of the same sums may change. Wrong code is off by far more.
TOLERANCE = 1e-5
MODALITIES: tuple[Modality, ...] = ("image", "text")
CAPTIONS = (
    "a dog", "two dogs are running through the snow", "", "Ein Café in Zürich, 東京 🐶", "a red ball " * 200,
)  # fmt: skip


class Encoder(Protocol):
    """A backbone, adapted or merged or as it is."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e]."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """[b, s] -> [b, e]."""


class Refused(Exception):  # noqa: N818 - no error: what the contract lets a backbone leave out
    """The backbone says that it cannot do something, and why."""


Check = Callable[["Subject"], Iterator[str]]


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Args:
        spec: Its name.
        plugin: What builds it.
        request: With which weights.
        backbone: One that no check changes.
        fresh: Give another that may be changed.
    """

    spec: BackboneSpec
    plugin: BackbonePlugin
    request: WeightsRequest
    backbone: Backbone
    fresh: Callable[[], Backbone]

    @cached_property
    def pixels(self) -> Tensor:
        """[3, 3, h, w]."""
        return torch.randn(3, 3, *self.backbone.image_size, generator=torch.Generator().manual_seed(1))

    @cached_property
    def tokens(self) -> Tensor:
        """Of `CAPTIONS`: [5, s]."""
        return self.backbone.tokenize(CAPTIONS)

    @cached_property
    def own_rows(self) -> dict[Modality, Tensor]:
        """The embeddings of the backbone as it is."""
        return self.embed(self.backbone)

    @torch.inference_mode()
    def embed(self, model: Encoder) -> dict[Modality, Tensor]:
        """Pictures [3, e] and captions [5, e], as an evaluation computes them.

        Without gradients: torch's attention takes another path, with other last bits, where a gradient is needed.
        """
        return {"image": model.encode_image(self.pixels), "text": model.encode_text(self.tokens)}

    def modalities(self) -> tuple[Modality, ...]:
        """Those whose tower takes modules.

        Raises:
            Refused: None does.
        """
        able, reasons = [], []
        for modality in MODALITIES:
            try:
                self.backbone.sites((modality,))
                able.append(modality)
            except IncompatibleError as error:
                reasons.append(str(error))
        if not able:
            raise Refused(reasons[0])
        return tuple(able)

    def adapted(self, modalities: Sequence[Modality] | None = None) -> AdaptedModel:
        """A fresh backbone with modules that add something."""
        options = MwaConfig(
            knowledge_extractor=4, alignment_enhancer=8, modalities=tuple(modalities or self.modalities())
        )
        model = inject(self.fresh(), MethodConfig(mwa=options))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in model.trainable().items():
                if name.startswith("adapter."):  # and not heads that the weights file lacks, which are the backbone's
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model


def same_bits(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal to the last bit, NaN included."""
    return found.shape == expected.shape and torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


def distance(found: Tensor, expected: Tensor) -> float:
    """How far rows are apart in direction, the largest component; infinite where their shapes differ or one is NaN."""
    if found.shape != expected.shape:
        return float("inf")
    difference = unit_rows(found.detach().float()) - unit_rows(expected.detach().float())
    return difference.abs().max().nan_to_num(float("inf")).item()


def pictures() -> list[Image.Image]:
    """RGB pictures of three shapes."""
    generator = torch.Generator().manual_seed(2)
    sizes = ((50, 90), (300, 200), (64, 64))
    noise = (torch.randint(256, (*size, 3), dtype=torch.uint8, generator=generator) for size in sizes)
    return [Image.fromarray(values.numpy()) for values in noise]
