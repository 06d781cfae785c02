"""The sites of a backbone of which one tower may have none."""

from __future__ import annotations

from typing import get_args

from mwactl.backbone.contract import Backbone, Modality, Site
from mwactl.errors import IncompatibleError


def available_sites(backbone: Backbone) -> list[Site]:
    """The sites of every tower that has blocks, each once.

    Raises:
        IncompatibleError: No tower has any; says why not the picture tower.
    """
    found: dict[str, Site] = {}
    refusals: list[IncompatibleError] = []
    for modality in get_args(Modality):
        try:
            found |= {site.name: site for site in backbone.sites((modality,))}
        except IncompatibleError as refusal:
            refusals.append(refusal)
    if not found:
        raise refusals[0]
    return list(found.values())
