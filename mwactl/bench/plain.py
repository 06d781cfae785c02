"""MWA the plain way: what a straightforward program computes, with nothing saved or left out.

Shape notation: b batch, n tokens, h heads, c channels of a head, d width, m middle dimension.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mwactl.adapter import Adapter, MultiWayAdapter
from mwactl.adapter.modules import Bottleneck
from mwactl.bench.setup import UnavailableError


class PlainBottleneck(nn.Module):
    """`up(ReLU(down(LN(x))))` of torch's own modules; names as in the adapter."""

    def __init__(self, like: Bottleneck) -> None:
        super().__init__()
        middle, width = like.down.weight.shape
        assert isinstance(like.norm, nn.LayerNorm)
        self.norm = nn.LayerNorm(width, eps=like.norm.eps)
        self.down = nn.Linear(width, middle)
        self.up = nn.Linear(middle, width)

    def forward(self, x: Tensor) -> Tensor:
        """[b, n, d] -> [b, n, d]."""
        branch: Tensor = self.up(relu(self.down(self.norm(x))))  # [b, n, d] -> [b, n, m] -> [b, n, d]
        return branch


class PlainSite(nn.Module):
    """The modules of one block: an extractor a modality, and the enhancer that they share or one each."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        for kind in ("knowledge_extractor", "alignment_enhancer"):
            modules = {owner: PlainBottleneck(module) for owner, module in getattr(like, kind).items()}
            self.add_module(kind, nn.ModuleDict(modules))

    def extractor(self, modality: str) -> nn.Module:
        """The Knowledge Extractor of a modality."""
        return self.get_submodule(f"knowledge_extractor.{modality}")

    def enhancer(self, modality: str) -> nn.Module:
        """The Alignment Enhancer of a modality."""
        own = self.get_submodule("alignment_enhancer")
        assert isinstance(own, nn.ModuleDict)
        return own[modality if modality in own else "shared"]


class PlainAdapter(nn.Module):
    """The adapter's modules in the plain form, under the adapter's names and with its values."""

    def __init__(self, adapter: MultiWayAdapter) -> None:
        super().__init__()
        self.sites = nn.ModuleDict({name: PlainSite(modules) for name, modules in adapter.sites.items()})
        self.load_state_dict(adapter.state_dict())

    def site(self, name: str) -> PlainSite:
        """The modules of one block."""
        found = self.sites[name]
        assert isinstance(found, PlainSite)
        return found


class PlainModel(nn.Module, ABC):
    """A plain dual encoder. What it trains has the names that the toolkit's own model gives it."""

    logit_scale: nn.Parameter

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e], not normalised."""

    @abstractmethod
    def encode_text(self, tokens: Tensor) -> Tensor:
        """[b, s], padded -> [b, e], not normalised."""

    @abstractmethod
    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained."""

    @abstractmethod
    def blocks(self) -> Iterator[nn.Module]:
        """The transformer blocks, each of which can be compiled."""


def named(module: nn.Module | None, prefix: str) -> dict[str, nn.Parameter]:
    """The parameters of a module that are trained, with a prefix."""
    own: Mapping[str, nn.Parameter] = dict(module.named_parameters()) if module is not None else {}
    return {f"{prefix}.{name}": parameter for name, parameter in own.items() if parameter.requires_grad}


def naive_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention whose scores and probabilities exist as tensors: [b, h, n, c] three times -> [b, h, n, c]."""
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)  # [b, h, n, n]
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value


def plain_adapter(adapter: Adapter | None) -> PlainAdapter | None:
    """The MultiWay-Adapter in the plain form; None: there is none.

    Raises:
        UnavailableError: It has options that the plain form does not know.
    """
    if not isinstance(adapter, MultiWayAdapter):
        return None
    config = adapter.config
    known = config.preset == "paper" and config.layer_norm and config.bias and config.activation == "relu"
    if not known or (config.alpha, config.beta, config.dropout) != (1.0, 1.0, 0.0):
        raise UnavailableError("the plain form knows the paper's defaults alone")
    return PlainAdapter(adapter)
