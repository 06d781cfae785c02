"""Adapters as vectors: weighted sums of several, and one made weaker or stronger. Computed in fp64, rounded once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mwactl.adapter.adapted import AdaptedModel
from mwactl.adapter.lora import LoraAdapter
from mwactl.adapter.modules import AuthorsAlignmentEnhancer, Bottleneck

State = Mapping[str, Tensor]


def average(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of adapters' tensors, name by name; the weights may have any finite sum.

    Args:
        states: Of adapters of one method on one backbone: the same names, shapes and dtypes.
        weights: One a state.

    Raises:
        ValueError: They are not.
    """
    if len(states) != len(weights) or not states:
        raise ValueError(f"{len(states)} adapters need as many weights, not {len(weights)}")
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weights must be finite, not {list(weights)}")
    first = states[0]
    if any(_forms(state) != _forms(first) for state in states):
        raise ValueError("the adapters have different tensors")
    summed = {}
    for name, tensor in first.items():
        terms = [weight * state[name].double() for weight, state in zip(weights, states, strict=True)]
        summed[name] = torch.stack(terms).sum(0).to(tensor.dtype)
    return summed


def scaled(model: AdaptedModel, trained: State, strength: float) -> dict[str, Tensor]:
    """An adapter whose branches add `strength` times as much: 0 is the bare backbone, 1 the adapter itself.

    A branch is linear in its last map, so that is multiplied; a trained scale stays what it is. The backbone's own
    tensors (projections, temperature) move along the line from what they were.

    Args:
        model: As it was injected: the adapter's structure, and the backbone's values from before training.
        trained: The adapter's tensors.
        strength: Any finite number.
    """
    before, factors = model.trainable(), _factor_names(model)
    result = {}
    for name, tensor in trained.items():
        if name in factors:
            value = strength * tensor.double()
        elif name.startswith("backbone.") and strength != 1.0:
            base = before[name].detach().cpu().double()
            value = base + strength * (tensor.double() - base)
        else:
            value = tensor
        result[name] = value.to(tensor.dtype).clone()
    return result


def _factor_names(model: AdaptedModel) -> set[str]:
    """The last maps of the branches."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        if isinstance(module, AuthorsAlignmentEnhancer):
            names |= {f"{prefix}.fc2.{leaf}" for leaf, _ in module.fc2.named_parameters()}
        elif isinstance(module, Bottleneck):
            names |= {f"{prefix}.up.{leaf}" for leaf, _ in module.up.named_parameters()}
    if isinstance(model.adapter, LoraAdapter):
        names |= {name for name in model.trainable() if ".lora_B." in name}
    return names


def _forms(state: State) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
