"""What the hosts of every library have in common: a block whose `forward` is replaced while modules are attached.

It is replaced on the instance, so no parameter is renamed and nothing is registered in the backbone.

Shape notation: b batch, n tokens, d the block's width, f the FFN's hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from mwactl.backbone.contract import Branch, FeedForward, Modality, Site

_Forward = Callable[..., Tensor]


class BlockSite(Site):
    """A block through which one modality passes.

    Args:
        tower: That modality.
        depth: The block's index in its tower.
        module: The module whose `forward` is replaced: the block, or the part of it that ends with the FFN.
        block: The block of which it is a part; None: it is the block.
        forward: Computes it with modules: `forward(module, extractor, enhancer, *what the module gets)`.
        width: d.
        eps: Of the norm before the FFN (of a post-LN block: after it).
    """

    def __init__(
        self,
        tower: Modality,
        depth: int,
        *,
        module: nn.Module,
        block: nn.Module | None = None,
        forward: _Forward,
        width: int,
        eps: float,
    ) -> None:
        super().__init__(f"{tower}/{depth}", depth=depth, width=width, eps=eps, modalities=(tower,))
        self._module = module
        self._forward = forward
        self._whole = module if block is None else block

    @property
    def block(self) -> nn.Module:
        """The block."""
        return self._whole

    def attach(self, extractors: Mapping[Modality, Branch], enhancers: Mapping[Modality, Branch]) -> None:
        """Compute with these modules from now on."""
        modality = self.modalities[0]
        adapted = partial(self._forward, self._module, extractors.get(modality), enhancers.get(modality))
        self._module.forward = adapted

    def detach(self) -> None:
        """Compute as the untouched block again."""
        self._module.__dict__.pop("forward", None)

    def compile(self, backend: str) -> None:
        """Compile the block (of a BERT-like layer its output part, where the modules are)."""
        self._module.compile(backend=backend)


def linear_maps(*parts: nn.Module) -> list[nn.Linear]:
    """Those called as modules. (What torch's packed attention reads the weights of is of another class.)"""
    return [child for part in parts for child in part.children() if type(child) is nn.Linear]


def form_of(norm: Any) -> dict[str, Any]:
    """Width and epsilon of a norm that knows its shape."""
    return {"width": int(norm.normalized_shape[0]), "eps": float(norm.eps)}


def feed_forward_of(
    norm: Any, fc1: Any, activation: Any, inner_norm: Any, fc2: Any, scale: Tensor | None
) -> FeedForward | None:
    """The FFN of these parts, or None where one of them is not of the kind that a fold knows."""
    known = (
        (norm is None or isinstance(norm, nn.LayerNorm))
        and isinstance(inner_norm, nn.LayerNorm | nn.Identity | None)
        and type(fc1) is type(fc2) is nn.Linear
        and not (isinstance(activation, nn.Module) and any(True for _ in activation.parameters()))
    )
    inner = inner_norm if isinstance(inner_norm, nn.LayerNorm) else None
    return FeedForward(norm, fc1, activation, inner, fc2, scale) if known else None
