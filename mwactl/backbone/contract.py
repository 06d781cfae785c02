"""The contract of a backbone: the only things the toolkit ever asks of a model.

Shape notation: b batch, h and w pixels, s tokens, d the width of a block, e the width of the shared space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from mwactl.backbone.portable import Portable
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.errors import IncompatibleError

Modality = Literal["image", "text"]
ImageTransform = Callable[[Image.Image], Tensor]
Branch = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training pictures.

    Args:
        crop_min_scale: The smallest share of the picture's area that a random resized crop keeps.
        colour: Jitter brightness, contrast, saturation and hue, and turn one picture in five grey.
    """

    crop_min_scale: float
    colour: bool = False


@dataclass(frozen=True)
class FeedForward:
    """The FFN of a block in its parts: `scale · fc2(inner_norm(activation(fc1(norm(x1)))))` is what it adds to x1.

    Args:
        norm: Before it, with weight and bias; None where the FFN reads x1 itself (post-LN blocks).
        fc1: [f, d].
        activation: Elementwise.
        inner_norm: After the activation (sub-LN), or None.
        fc2: [d, f].
        scale: Layer scale [d], or None.
    """

    norm: nn.LayerNorm | None
    fc1: nn.Linear
    activation: Callable[[Tensor], Tensor]
    inner_norm: nn.LayerNorm | None
    fc2: nn.Linear
    scale: Tensor | None


class Site(ABC):
    """One place where MultiWay-Adapter modules attach: a transformer block.

    With x1 the residual stream after attention, an attached site computes, for the modality m that passes through,
    `x2 = x1 + FFN(LN(x1)) + extractors[m](x1)` and returns `x2 + enhancers[m](x2)`.

    Args:
        name: Stable, unique in the backbone, without dots: `image/0`, `text/11`, `layer/3`.
        depth: The block's index in its tower.
        width: d.
        eps: The epsilon of the block's own LayerNorm before the FFN.
        modalities: The modalities whose tokens pass through.
    """

    def __init__(self, name: str, *, depth: int, width: int, eps: float, modalities: tuple[Modality, ...]) -> None:
        self.name = name
        self.depth = depth
        self.width = width
        self.eps = eps
        self.modalities = modalities

    @property
    def block(self) -> nn.Module:
        """The module that holds every parameter of the block, and whose call computes it; nothing changes its output.

        Raises:
            IncompatibleError: The plugin does not say which that is.
        """
        raise IncompatibleError(
            f"{self.name} cannot be sharded",
            why=f"{type(self).__name__} does not say which module is its block",
            fix="train.shard_backbone=false",
        )

    @abstractmethod
    def attach(self, extractors: Mapping[Modality, Branch], enhancers: Mapping[Modality, Branch]) -> None:
        """Compute with these modules from now on. Renames no parameter and owns none: the adapter does."""

    @abstractmethod
    def detach(self) -> None:
        """Compute as the untouched backbone again."""

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """The block's FFN as a fold needs it, or None where it has no form that can be folded into."""
        return None

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Compute `x2 = x1 + branch(x1)` from now on: `branch` replaces the norm before the FFN, the FFN and its scale.

        The replaced parameters leave the backbone; those of `branch` join it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no FFN that can be replaced")

    def attention_linears(self, modality: Modality) -> Sequence[nn.Linear]:
        """The linear maps of the block's attention that this modality's tokens pass through, each called as a module.

        None where attention is one packed product.
        """
        return ()

    def compile(self, backend: str) -> None:
        """Compute what the block does for each token by `torch.compile` from now on; modules are attached before.

        Args:
            backend: Of `torch.compile`.

        Raises:
            IncompatibleError: The plugin does not say what of its blocks can be compiled.
        """
        raise IncompatibleError(
            f"{self.name} cannot be compiled",
            why=f"{type(self).__name__} does not say which part of its block can be",
            fix="train.compile=false",
        )


class Backbone(nn.Module, ABC):
    """A dual encoder of pictures and captions.

    A plugin's subclass gives the towers; it is built in fp32 on the CPU, in evaluation mode, and frozen: torch takes
    other kernels, with other last bits, where weights require gradients, and an injected model must compute the same.
    """

    def __init__(self, spec: BackboneSpec, weights: WeightsUsed) -> None:
        super().__init__()
        self.spec = spec
        self.weights = weights

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pictures [b, 3, h, w] -> [b, e], not normalised."""

    @abstractmethod
    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> [b, e], not normalised."""

    @abstractmethod
    def encode_padded_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] with their padding -> what `encode_text` gives: [b, e], not normalised.

        Shapes follow from b and s alone, never from the ids, so that a graph can be traced of it that serves any
        number of captions of any length.
        """

    def portable(self) -> Portable:
        """The picture transform and the tokenizer as data, for programs without torch.

        Raises:
            IncompatibleError: They cannot be expressed as data.
        """
        raise IncompatibleError(
            f"{self.spec.name} cannot be used without torch",
            why=f"the plugin `{self.spec.family}` does not say how its pictures and captions are prepared",
            fix="give its Backbone a method `portable`",
        )

    @abstractmethod
    def image_transform(self, augmentation: Augmentation | None = None) -> ImageTransform:
        """The model's own transform, an RGB picture -> [3, h, w]; with the augmentation while training."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions -> token ids [b, s], int64, padded to the model's context length."""

    @abstractmethod
    def sites(self, modalities: Sequence[Modality] = ("image", "text")) -> list[Site]:
        """Every place where modules can attach, in depth order, tower by tower.

        Args:
            modalities: Only the towers (or blocks) through which one of these passes.

        Raises:
            IncompatibleError: A tower has no transformer blocks; says which tower and why.
        """

    @property
    @abstractmethod
    def logit_scale(self) -> nn.Parameter:
        """The temperature as the model stores it: log of the factor on cosine similarities, shape []."""

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """The bias of the sigmoid loss, where the family has one, shape []."""
        return None

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """(h, w) of the pictures that `encode_image` takes."""

    @property
    @abstractmethod
    def context_length(self) -> int:
        """The longest caption that `tokenize` gives, in tokens."""

    @property
    @abstractmethod
    def embedding_width(self) -> int:
        """e."""

    @abstractmethod
    def head_parameter_names(self) -> set[str]:
        """The parameters of the projections into the shared space: what `method: head` trains."""

    def untrained_parameter_names(self) -> set[str]:
        """The freeze policy: parameters that the weights file lacks, so that they must be trained."""
        return set()

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Facts that change what is computed but are no tensors (activation, epsilon, picture normalisation)."""

    def count_parameters(self) -> int:
        """How many numbers the backbone's parameters hold."""
        return sum(parameter.numel() for parameter in self.parameters())


def unit_rows(embeddings: Tensor) -> Tensor:
    """Rows of length one: [b, e] -> [b, e]."""
    return torch.nn.functional.normalize(embeddings, dim=-1)
