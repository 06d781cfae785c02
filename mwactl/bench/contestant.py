"""A variant as a model that can be stepped, whatever it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.contract import Backbone
from mwactl.backbone.spec import RANDOM
from mwactl.bench.family import Family, family_of
from mwactl.bench.plain import PlainModel
from mwactl.bench.setup import (
    FULL,
    LORA,
    MWA_COMPILED,
    MWA_K,
    MWA_PLAIN,
    MWA_STRONG,
    Setup,
    UnavailableError,
)
from mwactl.config.recipe import LoraConfig, MethodConfig
from mwactl.errors import MwactlError
from mwactl.train.compiled import allow_a_graph_a_block, compile_blocks

_LORA_RANK = 16
_DISTURBANCE = 0.02
_INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


class DualEncoder(Protocol):
    """What a step needs of a model."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e], not normalised."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """[b, s] -> [b, e], not normalised."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained; the same tensor has the same name in every variant."""


@dataclass
class Contestant:
    """One variant, built.

    Args:
        model: In training mode.
        module: The same, as a module.
        logit_scale: Its temperature.
        compile: Compiles what is to be, before it is timed.
        lean: The backbone, where its frozen weights are held in the precision of the timed steps, as in training.
        several: Whether it steps on several captions a picture.
        notes: What a reader must know of it, a phrase each.
    """

    model: DualEncoder
    module: nn.Module
    logit_scale: nn.Parameter
    compile: Callable[[], None] | None = None
    lean: Backbone | None = None
    several: bool = False
    notes: list[str] = field(default_factory=list)


def build_contestant(variant: str, setup: Setup, device: torch.device) -> Contestant:
    """Build a variant with the comparison's weights on a device.

    Raises:
        UnavailableError: It cannot be built here.
        NotFoundError: No such backbone, or its weights are not on this machine.
    """
    model = build_model(variant, setup)
    if variant in (FULL, MWA_PLAIN, MWA_STRONG):
        contestant = _plain(variant, model, device)
    else:
        several = variant == MWA_K
        contestant = Contestant(model, model, model.backbone.logit_scale, lean=model.backbone, several=several)
        if variant == LORA:
            contestant.notes.append(f"rank {_LORA_RANK}")
        if variant == MWA_COMPILED:
            contestant.compile = partial(compile_blocks, model)
    contestant.module.to(device)
    contestant.module.train()
    return contestant


def build_model(variant: str, setup: Setup) -> AdaptedModel:
    """The toolkit's own model of a variant; every MWA variant's adapter has the same values, none of them neutral."""
    if variant == LORA:
        return _with_lora(build_backbone(setup))
    method = MethodConfig(name="mwa" if variant.startswith("mwa") else "full")
    model = inject(build_backbone(setup), method, seed=setup.seed)
    if model.adapter is not None:
        _disturb(model.adapter, setup.seed + 1)
    return model


def _with_lora(backbone: Backbone) -> AdaptedModel:
    try:
        return inject(backbone, MethodConfig(name="lora", lora=LoraConfig(rank=_LORA_RANK, targets="ffn")))
    except MwactlError as error:
        raise UnavailableError(str(error)) from error


def build_backbone(setup: Setup) -> Backbone:
    """The backbone with the comparison's weights; random ones need no file, not even a tokenizer's."""
    plugin, spec = find_spec(setup.backbone)
    if setup.weights != RANDOM:
        return plugin.build(spec, WeightsRequest(None if setup.weights == "default" else setup.weights))
    backbone = plugin.build_without_weights(spec)
    if any(True for _ in backbone.buffers()):  # they have values that only the plugin knows
        backbone = plugin.build(spec, WeightsRequest(RANDOM, seed=setup.seed))
    else:
        backbone.to_empty(device="cpu")
        for name, parameter in backbone.named_parameters():
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            nn.init.constant_(parameter, is_norm if parameter.dim() else _INITIAL_LOGIT_SCALE)
    _disturb(backbone, setup.seed)
    return backbone


def known_family(backbone: Backbone) -> Family:
    """The backbone's family.

    Raises:
        UnavailableError: It is not known here.
    """
    family = family_of(backbone)
    if family is None:
        raise UnavailableError(f"the family `{backbone.spec.family}` is not known to the comparison")
    return family


def _disturb(module: nn.Module, seed: int) -> None:
    """Move every parameter but the temperature from its initial value: no norm is trivial, no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=_DISTURBANCE)


def _plain(variant: str, model: AdaptedModel, device: torch.device) -> Contestant:
    strong = variant == MWA_STRONG
    plain: PlainModel = known_family(model.backbone).make_plain(model, fused=strong)
    contestant = Contestant(plain, plain, plain.logit_scale)
    if strong and device.type == "cuda":
        contestant.compile = partial(_compile, plain)
    elif strong:
        contestant.notes.append("without torch.compile, which is for GPUs here")
    return contestant


def _compile(plain: PlainModel) -> None:
    allow_a_graph_a_block()
    for block in plain.blocks():
        block.compile()
