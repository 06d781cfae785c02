"""Sites: where modules attach, that each computes where it should, and that nothing else changes.

Shape notation: t tokens (any leading axes), d the block's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mwactl.adapter import inject, strip
from mwactl.backbone.contract import Backbone, Branch, Modality, Site
from mwactl.backbone.fingerprint import fingerprint
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.testing.subject import MODALITIES, Subject, same_bits

_Place = tuple[str, Modality]


def names(subject: Subject) -> Iterator[str]:
    """Stable names without dots, tower by tower in depth order."""
    sites = subject.backbone.sites(subject.modalities())
    if not sites:
        yield "`sites` is empty: raise IncompatibleError, with the reason, where a tower has no blocks"
    if len({site.name for site in sites}) < len(sites):
        yield "two sites have the same name"
    for site in sites:
        if not site.name or "." in site.name:
            yield f"the site's name `{site.name}` must not be empty or have a dot: it is part of parameters' names"
        if site.width < 1 or not 0 < site.eps < 1:
            yield f"{site.name} has width {site.width} and eps {site.eps}"
        if not site.modalities or not set(site.modalities) <= set(MODALITIES):
            yield f"{site.name} has the modalities {site.modalities}; they are of {MODALITIES}"
    for tower in dict.fromkeys(site.modalities for site in sites):
        depths = [site.depth for site in sites if site.modalities == tower]
        if depths != list(range(len(depths))):
            yield f"the depths of the {'/'.join(tower)} tower are {depths}: they must count up from 0"


def stability(subject: Subject) -> Iterator[str]:
    """The same sites for one modality, in another building and without weights."""
    modalities = subject.modalities()
    facts = [_facts(site) for site in subject.backbone.sites(modalities)]
    for modality in modalities:
        own = [_facts(site) for site in subject.backbone.sites((modality,))]
        if own != [site for site in facts if modality in site.modalities]:
            yield f"`sites(['{modality}'])` is not what of all sites has this modality, in the same order"
    others = {
        "in another building": subject.fresh(),
        "without weights": subject.plugin.build_without_weights(subject.spec),
    }
    for where, other in others.items():
        if [_facts(site) for site in other.sites(modalities)] != facts:
            yield f"the sites are others {where}"


def attaching(subject: Subject) -> Iterator[str]:
    """Attaching renames no parameter and registers none in the backbone."""
    backbone = subject.fresh()
    before = [(name, id(parameter)) for name, parameter in backbone.named_parameters()]
    buffers = list(backbone.state_dict())
    inject(backbone, _fresh_modules(subject))
    after = [(name, id(parameter)) for name, parameter in backbone.named_parameters()]
    if after != before or list(backbone.state_dict()) != buffers:
        changed = sorted({name for name, _ in set(after) ^ set(before)} | set(buffers) ^ set(backbone.state_dict()))
        yield f"attaching changes the backbone's parameters: {(changed or ['their order'])[0]}"


def untrained(subject: Subject) -> Iterator[str]:
    """With modules that add nothing yet, the embeddings are the backbone's to the last bit."""
    model = inject(subject.fresh(), _fresh_modules(subject))
    for modality, rows in subject.embed(model).items():
        if not same_bits(rows, subject.own_rows[modality]):
            yield f"freshly injected modules change `encode_{modality}`, though they add exactly nothing"


@torch.inference_mode()
def computation(subject: Subject) -> Iterator[str]:
    """`x2 = x1 + FFN + KE(x1)`, then `x2 + AE(x2)`: every module is called, reads [t, d] and reaches the embedding."""
    backbone = subject.fresh()
    sites = backbone.sites(subject.modalities())
    plain = _Recorder(subject, backbone, sites)
    for site in sites:
        for modality in plain.modalities(site):
            place: _Place = (site.name, modality)
            who = f"{site.name} ({modality})"
            read, finished = plain.extracted.get(place), plain.enhanced.get(place)
            if read is None or finished is None:
                yield f"{who} calls no {'Knowledge Extractor' if read is None else 'Alignment Enhancer'}"
                continue
            if read.shape[-1] != site.width or read.shape != finished.shape:
                yield f"{who} gives its modules {list(read.shape)} and {list(finished.shape)}, not […, {site.width}]"
                continue
            extracting = _Recorder(subject, backbone, sites, extractor=place)
            if place in extracting.enhanced and same_bits(extracting.enhanced[place], finished):
                yield f"the Alignment Enhancer of {who} does not read what its Knowledge Extractor has added"
            if same_bits(extracting.rows[modality], plain.rows[modality]):
                yield f"what the Knowledge Extractor of {who} adds does not reach the embedding"
            if same_bits(_Recorder(subject, backbone, sites, enhancer=place).rows[modality], plain.rows[modality]):
                yield f"what the Alignment Enhancer of {who} adds does not reach the embedding"
    for modality in subject.modalities():
        order = [name for name, passed in plain.order if passed == modality]
        if order != [site.name for site in sites if modality in site.modalities and site.name in order]:
            yield f"{modality} tokens pass through the sites in another order than that of `sites`: {', '.join(order)}"


def apart(subject: Subject) -> Iterator[str]:
    """Modules of one modality alone leave the other's embeddings as they are, to the last bit."""
    for adapted in subject.modalities():
        rows = subject.embed(subject.adapted([adapted]))
        for modality in MODALITIES:
            same = same_bits(rows[modality], subject.own_rows[modality])
            if modality != adapted and not same:
                yield f"modules for {adapted} alone change `encode_{modality}`"
            if modality == adapted and same:
                yield f"modules for {adapted} do not change `encode_{modality}`"


def gradients(subject: Subject) -> Iterator[str]:
    """Every parameter of every module gets a gradient, and none of the backbone's does."""
    model = subject.adapted().train()
    rows = torch.cat([model.encode_image(subject.pixels), model.encode_text(subject.tokens)])
    (rows * torch.randn(rows.shape, generator=torch.Generator().manual_seed(4))).sum().backward()  # type: ignore[no-untyped-call]
    without = [
        name for name, parameter in model.trainable().items()
        if name.startswith("adapter.") and (parameter.grad is None or not parameter.grad.any())
    ]  # fmt: skip
    if without:
        yield f"{len(without)} of the modules' parameters get no gradient: {without[0]}"
    if moved := [name for name, p in model.backbone.named_parameters() if p.grad is not None and not p.requires_grad]:
        yield f"`{moved[0]}` is frozen and gets a gradient"


def detaching(subject: Subject) -> Iterator[str]:
    """Without its modules it is the backbone again, to the last bit."""
    stripped = strip(subject.adapted())
    if fingerprint(stripped) != fingerprint(subject.backbone):
        yield "after detaching, the backbone has another fingerprint"
    for modality, rows in subject.embed(stripped).items():
        if not same_bits(rows, subject.own_rows[modality]):
            yield f"after detaching, `encode_{modality}` does not give what it gave before attaching"


class _Recorder:
    """One pass with modules at every site that add nothing, but for one that adds something, and what they read."""

    def __init__(
        self,
        subject: Subject,
        backbone: Backbone,
        sites: Sequence[Site],
        *,
        extractor: _Place | None = None,
        enhancer: _Place | None = None,
    ) -> None:
        self.extracted: dict[_Place, Tensor] = {}
        self.enhanced: dict[_Place, Tensor] = {}
        self.order: list[_Place] = []
        self._adapted = subject.modalities()
        for site in sites:
            places: list[_Place] = [(site.name, modality) for modality in self.modalities(site)]
            site.attach(
                {place[1]: self._branch(place, self.extracted, adds=place == extractor) for place in places},
                {place[1]: self._branch(place, self.enhanced, adds=place == enhancer) for place in places},
            )
        self.rows = subject.embed(backbone)
        for site in sites:
            site.detach()

    def modalities(self, site: Site) -> list[Modality]:
        return [modality for modality in site.modalities if modality in self._adapted]

    def _branch(self, place: _Place, read: dict[_Place, Tensor], *, adds: bool) -> Branch:
        def branch(x: Tensor) -> Tensor:
            if read is self.extracted and place not in read:
                self.order.append(place)
            read[place] = x.clone()
            # Not the same number everywhere: a LayerNorm would take that away again.
            added = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(5)).to(x) if adds else 0.0
            return x * 0 + added

        return branch


class _Facts(NamedTuple):
    name: str
    depth: int
    width: int
    eps: float
    modalities: tuple[Modality, ...]


def _facts(site: Site) -> _Facts:
    return _Facts(site.name, site.depth, site.width, site.eps, site.modalities)


def _fresh_modules(subject: Subject) -> MethodConfig:
    return MethodConfig(mwa=MwaConfig(modalities=subject.modalities()))
