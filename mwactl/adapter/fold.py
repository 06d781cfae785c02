"""Fold: an adapter's modules become part of the weights, exactly (the algebra is that of any two maps in a row).

Dropout vanishes and the scales α and β go into the up-projections; the affine half of a normalisation goes into the
linear map behind it, layer scale into the one before it. A Knowledge Extractor and the block's FFN that read the same
vector then are one FFN of f + m hidden units. An Alignment Enhancer reads what its block has finished, so no weights of
that block or the next can hold it: it stays the small residual layer that it is.

Everything is computed in fp64 and rounded once, and works on the meta device as well: the structure of a merged model
is that of a folded one without weights.

Shape notation: d the block's width, f the FFN's hidden width, m the adapter's middle dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from mwactl.adapter.adapted import AdaptedModel, inject
from mwactl.adapter.lora import LoraAdapter
from mwactl.adapter.merged import MergedModel
from mwactl.adapter.modules import AuthorsAlignmentEnhancer, Bottleneck
from mwactl.adapter.mwa import SHARED, MultiWayAdapter, SiteModules
from mwactl.backbone.contract import Backbone, FeedForward, Modality, Site
from mwactl.config.recipe import MethodConfig


@dataclass(frozen=True)
class Part:
    """Some hidden units of a folded FFN.

    Args:
        units: How many.
        activation: Elementwise, without parameters.
        inner_eps: Of the normalisation over these units after the activation; None: there is none.
    """

    units: int
    activation: Callable[[Tensor], Tensor]
    inner_eps: float | None


class FoldedFeedForward(nn.Module):
    """`fc2(parts(fc1(norm(x))))`: an FFN whose normalisations have no parameters and whose hidden units have parts.

    Args:
        eps: Of the normalisation of what it reads; None: it reads x as it is.
        fc1: [d] -> [f + m].
        parts: The hidden units, in order.
        fc2: [f + m] -> [d].
    """

    def __init__(self, eps: float | None, fc1: nn.Linear, parts: Sequence[Part], fc2: nn.Linear) -> None:
        super().__init__()
        self.eps = eps
        self.fc1 = fc1
        self.parts = tuple(parts)
        self.fc2 = fc2

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] -> what is added to it, […, d]."""
        read = x if self.eps is None else layer_norm(x, (self.fc1.in_features,), eps=self.eps)
        split = torch.split(self.fc1(read), [part.units for part in self.parts], dim=-1)  # […, f + m] -> […, f], […, m]
        hidden = [_activated(part, units) for part, units in zip(self.parts, split, strict=True)]
        out: Tensor = self.fc2(hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=-1))
        return out


def fold(model: AdaptedModel) -> MergedModel:
    """Make one model of a backbone and its adapter that computes the same, up to rounding; for retrieval alone.

    Args:
        model: Is used up: its backbone is changed in place and belongs to the merged model. Without an adapter (the
            methods `bitfit`, `head` and `full`) there is nothing to fold, its trained weights are the model.
    """
    branches = nn.ModuleDict()
    kept: dict[str, list[str]] = {}
    if isinstance(model.adapter, LoraAdapter):
        model.adapter.merge_into(model.backbone)
    elif isinstance(model.adapter, MultiWayAdapter):
        for site in model.backbone.sites(model.method.mwa.modalities):
            if site.name in model.adapter.sites:
                modules = model.adapter.sites[site.name]
                assert isinstance(modules, SiteModules)
                branches[site.name] = _fold_site(site, modules, kept)
    model.adapter = None
    return MergedModel(model.backbone, branches, [_sentence(why, sites) for why, sites in kept.items()])


def folded_structure(backbone: Backbone, method: MethodConfig) -> MergedModel:
    """What `fold` makes of a backbone and a method, for weights to be loaded into; the meta device will do.

    LoRA leaves no trace in it, so peft is not needed.
    """
    return fold(inject(backbone, replace(method, name="full") if method.name == "lora" else method))


def _fold_site(site: Site, modules: SiteModules, kept: dict[str, list[str]]) -> nn.ModuleDict:
    """Fold what can be folded, attach the rest, and give what was attached; `kept`: reason → sites."""
    extractors, enhancers = nn.ModuleDict(), nn.ModuleDict()
    for modality in modules.modalities:
        if modality in modules.knowledge_extractor:
            extractor = modules.knowledge_extractor[modality]
            assert isinstance(extractor, Bottleneck)
            host = site.feed_forward(modality)
            why = _why_apart(host, extractor)
            if host is not None and why is None:
                site.replace_feed_forward(modality, _side_by_side([_of_host(host), _of_module(extractor)]))
            else:
                extractors[modality] = _side_by_side([_of_module(extractor)])
                kept.setdefault(f"the Knowledge Extractors of {{}} stay branches beside the FFN: {why}", []).append(
                    site.name if len(site.modalities) == 1 else f"{site.name} ({modality})"
                )
    for owner, enhancer in modules.alignment_enhancer.items():
        enhancers[owner] = _side_by_side([_of_module(enhancer)])
        kept.setdefault(_ENHANCERS, [])
    if enhancers:
        kept[_ENHANCERS].append(site.name)
    site.attach(_by_modality(extractors, modules.modalities), _by_modality(enhancers, modules.modalities))
    return nn.ModuleDict({"knowledge_extractor": extractors, "alignment_enhancer": enhancers})


_ENHANCERS = "the Alignment Enhancers of {} stay layers of their own: each reads what its block has finished"


def _by_modality(owned: nn.ModuleDict, modalities: Sequence[Modality]) -> Mapping[Modality, nn.Module]:
    owners = {modality: SHARED if SHARED in owned else modality for modality in modalities}
    return {modality: owned[owner] for modality, owner in owners.items() if owner in owned}


def _why_apart(host: FeedForward | None, extractor: Bottleneck) -> str | None:
    """Why a Knowledge Extractor cannot join the FFN, or None: they have to read the same vector."""
    if host is None:
        return "the FFN of these blocks has no form that anything can be folded into"
    own = extractor.norm.eps if isinstance(extractor.norm, nn.LayerNorm) else None
    hosts = None if host.norm is None else host.norm.eps
    if own == hosts:
        return None
    if own is None:
        return "they read the residual stream as it is, the FFN reads it normalised"
    if hosts is None:
        return "they normalise what they read, the FFN of a post-LN block does not"
    return f"their LayerNorm has epsilon {own:g}, that of the FFN {hosts:g}"


def _sentence(why: str, sites: Sequence[str]) -> str:
    where = sites[0] if len(sites) == 1 else f"{len(sites)} places ({sites[0]} to {sites[-1]})"
    return why.format(where)


@dataclass(frozen=True)
class _Branch:
    """Something that reads x and adds to it, in fp64, with nothing left in it but two linear maps and a part."""

    eps: float | None
    w1: Tensor
    b1: Tensor
    part: Part
    w2: Tensor
    b2: Tensor
    dtype: torch.dtype


def _side_by_side(branches: Sequence[_Branch]) -> FoldedFeedForward:
    """The sum of branches that read the same vector as one FFN: hidden units beside each other, rounded here."""
    dtype = branches[0].dtype
    fc1 = _linear(torch.cat([each.w1 for each in branches]), torch.cat([each.b1 for each in branches]), dtype)
    bias = torch.stack([each.b2 for each in branches]).sum(0)
    fc2 = _linear(torch.cat([each.w2 for each in branches], dim=1), bias, dtype)
    return FoldedFeedForward(branches[0].eps, fc1, [each.part for each in branches], fc2).eval()


def _of_host(host: FeedForward) -> _Branch:
    return _branch(host.norm, host.fc1, host.activation, host.inner_norm, host.fc2, host.scale)


def _of_module(module: nn.Module) -> _Branch:
    if isinstance(module, AuthorsAlignmentEnhancer):
        return _branch(None, module.fc1, gelu, module.norm, module.fc2, None)
    assert isinstance(module, Bottleneck)
    norm = module.norm if isinstance(module.norm, nn.LayerNorm) else None
    return _branch(norm, module.down, module.activation, None, module.up, module.scale)


def _branch(
    norm: nn.LayerNorm | None,
    fc1: nn.Linear,
    activation: Callable[[Tensor], Tensor],
    inner_norm: nn.LayerNorm | None,
    fc2: nn.Linear,
    scale: Tensor | float | None,
) -> _Branch:
    """`scale · fc2(inner_norm(activation(fc1(norm(x)))))`, what is affine in it folded; a scale is [d] or a number."""
    w1, b1 = _behind(norm, fc1)
    w2, b2 = _behind(inner_norm, fc2)
    if scale is not None:
        factor = scale.detach().double() if isinstance(scale, Tensor) else scale
        w2 = (factor * w2.T).T  # a factor of [d] acts on the rows of [d, f]
        b2 = factor * b2
    part = Part(fc1.out_features, activation, None if inner_norm is None else inner_norm.eps)
    return _Branch(None if norm is None else norm.eps, w1, b1, part, w2, b2, fc1.weight.dtype)


def _behind(norm: nn.LayerNorm | None, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias, in fp64, of a linear map that does the affine half of the normalisation before it as well."""
    weight = linear.weight.detach().double()
    bias = weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach().double()
    if norm is None or not norm.elementwise_affine:
        return weight, bias
    if norm.bias is not None:
        bias = bias + weight @ norm.bias.detach().double()
    return weight * norm.weight.detach().double(), bias


def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    linear.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return linear


def _activated(part: Part, units: Tensor) -> Tensor:
    hidden = part.activation(units)
    return hidden if part.inner_eps is None else layer_norm(hidden, (part.units,), eps=part.inner_eps)
