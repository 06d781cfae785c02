"""Layers through which both modalities pass, as sites: what is attached to a layer lies in two mappings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mwactl.backbone.branches import with_branches
from mwactl.backbone.contract import Branch, FeedForward, Modality, Site


class HostLayer(nn.Module):
    """A layer that MultiWay-Adapter modules attach to.

    `extractors` and `enhancers` are the modules of each modality. They are looked up in plain mappings, so they are
    not part of this module and change no parameter's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.extractors: Mapping[Modality, Branch] = {}
        self.enhancers: Mapping[Modality, Branch] = {}

    def adapted(self, modality: Modality, x1: Tensor, x2: Tensor) -> Tensor:
        """`x2 + KE(x1)`, then `+ AE(…)` (paper, equations 1 and 2).

        Args:
            modality: Of these tokens.
            x1: The residual stream after attention, [t, d].
            x2: After the FFN, [t, d].
        """
        return with_branches(x1, x2, self.extractors.get(modality), self.enhancers.get(modality))

    def after_attention(self, modality: Modality, x1: Tensor) -> Tensor:
        """FFN and attached modules: the residual stream after attention, [t, d] -> [t, d].

        A subclass computes it here and in no other place: it is what `Site.compile` compiles. Attention is not, since
        its shapes follow from the captions' lengths, which differ in every batch.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what follows its attention")

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """As `Site.feed_forward`, of this layer."""
        return None

    def attention_linears(self, modality: Modality) -> Sequence[nn.Linear]:
        """As `Site.attention_linears`, of this layer."""
        return ()

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """As `Site.replace_feed_forward`, of this layer."""
        raise NotImplementedError(f"{type(self).__name__} has no FFN that can be replaced")


class LayerSite(Site):
    """A layer, through which pictures and captions pass by different experts of the same width."""

    def __init__(self, depth: int, layer: HostLayer, *, width: int, eps: float) -> None:
        super().__init__(f"layer/{depth}", depth=depth, width=width, eps=eps, modalities=("image", "text"))
        self._layer = layer

    @property
    def block(self) -> nn.Module:
        """The layer."""
        return self._layer

    def attach(self, extractors: Mapping[Modality, Branch], enhancers: Mapping[Modality, Branch]) -> None:
        """Compute with these modules from now on."""
        self._layer.extractors, self._layer.enhancers = dict(extractors), dict(enhancers)

    def detach(self) -> None:
        """Compute as the untouched layer again."""
        self.attach({}, {})

    def feed_forward(self, modality: Modality) -> FeedForward | None:
        """The FFN of this modality's expert."""
        return self._layer.feed_forward(modality)

    def replace_feed_forward(self, modality: Modality, branch: nn.Module) -> None:
        """Compute `x2 = x1 + branch(x1)` for this modality's tokens from now on."""
        self._layer.replace_feed_forward(modality, branch)

    def attention_linears(self, modality: Modality) -> Sequence[nn.Linear]:
        """Of this modality's expert where there is one for each."""
        return self._layer.attention_linears(modality)

    def compile(self, backend: str) -> None:
        """Compile what follows attention."""
        layer = self._layer
        # On the instance, as `nn.Module.compile` does it: no name changes.
        layer.after_attention = torch.compile(layer.after_attention, backend=backend)  # type: ignore[method-assign]


def layer_sites(layers: Iterable[Any], *, width: int, eps: float) -> list[Site]:
    """The sites of a model's layers (`HostLayer`s), in depth order."""
    return [LayerSite(depth, layer, width=width, eps=eps) for depth, layer in enumerate(layers)]
