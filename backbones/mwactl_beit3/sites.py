"""The places where MultiWay-Adapter modules attach: one a layer, with an extractor for pictures and one for text."""

from __future__ import annotations

from collections.abc import Mapping

from mwactl.backbone.contract import Branch, Modality, Site
from mwactl_beit3.model import EPS, EncoderLayer


class LayerSite(Site):
    """An encoder layer, through which pictures and captions pass by different experts of the same width."""

    def __init__(self, depth: int, layer: EncoderLayer, width: int) -> None:
        super().__init__(f"layer/{depth}", depth=depth, width=width, eps=EPS, modalities=("image", "text"))
        self._layer = layer

    def attach(self, extractors: Mapping[Modality, Branch], enhancers: Mapping[Modality, Branch]) -> None:
        """Compute with these modules from now on."""
        self._layer.extractors, self._layer.enhancers = dict(extractors), dict(enhancers)

    def detach(self) -> None:
        """Compute as the untouched layer again."""
        self._layer.extractors, self._layer.enhancers = {}, {}
