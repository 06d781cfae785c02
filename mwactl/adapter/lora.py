"""LoRA (Hu et al., 2021, arXiv:2106.09685) by peft: the baseline that most users come from.

Shape notation: r the rank, d and f the widths of a linear map.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from importlib import import_module
from typing import Any

from torch import nn

from mwactl.adapter.added import Adapter
from mwactl.backbone.contract import Backbone, Modality
from mwactl.config.recipe import LoraConfig
from mwactl.errors import IncompatibleError, UsageError

_ADAPTER = "default"  # peft's name for the only one


class LoraAdapter(Adapter):
    """peft's layers in place of the linear maps of every block: `W x + (alpha / rank) · B A x`, A [r, d], B [f, r].

    peft would put its layers into the backbone and rename the parameters inside. Here it puts them into a twin of each
    linear map, which shares its parameters, and the map's `forward` is the layer's while attached.

    Parameter names read `layers.visual/blocks/0/mlp/fc1.lora_A.default.weight`.

    Args:
        backbone: Whose maps they are; nothing of it is changed yet.
        config: Rank, scale, dropout and which maps.

    Raises:
        UsageError: peft is not installed, or the rank is more than a map can have.
        IncompatibleError: The blocks of a tower have no linear maps of the kind asked for.
    """

    def __init__(self, backbone: Backbone, config: LoraConfig) -> None:
        super().__init__()
        self.config = config
        self._linears, self._counts = _targets(backbone, config)
        self.layers = nn.ModuleDict({key: copy(linear) for key, linear in self._linears.items()})
        peft = _peft()
        options = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.rank if config.alpha is None else config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(self.layers),
        )
        peft.inject_adapter_in_model(options, self.layers, adapter_name=_ADAPTER)

    def attach_to(self, backbone: Backbone) -> None:
        """Compute with the layers."""
        for key, linear in self._linears.items():
            linear.forward = self.layers[key].__call__  # type: ignore[method-assign]

    def detach_from(self, backbone: Backbone) -> None:
        """Compute with the linear maps alone."""
        for linear in self._linears.values():
            linear.__dict__.pop("forward", None)

    def merge_into(self, backbone: Backbone) -> None:
        """Add `(alpha / rank) · B A` to every map's weight, which the layers then no longer do themselves."""
        for layer in self._layers():
            layer.merge()
        self.detach_from(backbone)

    def branches(self, modality: Modality) -> Iterator[nn.Module]:
        """All layers: which modality passes through which is not told apart."""
        yield from self.layers.values()

    def adds_nothing(self, modality: Modality) -> bool:
        """Whether every B is zero."""
        return not any(layer.lora_B[_ADAPTER].weight.any() for layer in self._layers())

    def module_counts(self) -> dict[str, int]:
        """How many maps have a layer."""
        return {"lora": len(self.layers)}

    def description(self) -> str:
        """Rank and number of maps; those that both pass through count for both."""
        pictures, captions = self._counts["image"], self._counts["text"]
        on = f"{len(self.layers)} linear maps ({pictures} for pictures, {captions} for captions)"
        return f"LoRA of rank {self.config.rank} on {on}"

    def _layers(self) -> Iterator[Any]:
        yield from self.layers.values()


def _targets(backbone: Backbone, config: LoraConfig) -> tuple[dict[str, nn.Linear], dict[Modality, int]]:
    """The linear maps by their names in the backbone, and how many each modality passes through.

    The names have `/` for `.`, which no module's name may hold.

    Raises:
        IncompatibleError: A modality passes through none of the kind asked for.
        UsageError: The rank is more than a map can have.
    """
    names = {id(module): name.replace(".", "/") for name, module in backbone.named_modules()}
    found: dict[str, nn.Linear] = {}
    counts: dict[Modality, int] = {"image": 0, "text": 0}
    for site in backbone.sites():
        for modality in site.modalities:
            linears: list[nn.Linear] = []
            if config.targets != "attention":
                parts = site.feed_forward(modality)
                linears += [] if parts is None else [parts.fc1, parts.fc2]
            if config.targets != "ffn":
                linears += site.attention_linears(modality)
            found |= {names[id(linear)]: linear for linear in linears}
            counts[modality] += len(linears)
    for modality, count in counts.items():
        if not count:
            raise IncompatibleError(
                f"LoRA finds no linear map to attach to in the {modality} tower of {backbone.spec.name}",
                why=f"none of its blocks calls one of the kind `{config.targets}`; packed attention is no such map",
                fix=f"{'' if config.targets == 'all' else 'method.lora.targets=all, or '}method.name=mwa",
            )
    largest = min(min(linear.in_features, linear.out_features) for linear in found.values())
    if config.rank > largest:
        raise UsageError(
            f"method.lora.rank={config.rank} is more than {backbone.spec.name} has use for",
            why=f"the smallest of its linear maps has rank {largest} itself",
            fix=f"method.lora.rank={largest}, or less",
        )
    return found, counts


def _peft() -> Any:
    """peft, which only this method needs.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return import_module("peft")
    except ImportError as error:
        raise UsageError("the method `lora` needs the package peft", fix="pip install 'mwactl[lora]'") from error
