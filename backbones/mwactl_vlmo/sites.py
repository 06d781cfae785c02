"""The places where MultiWay-Adapter modules attach: one a block, with an extractor for pictures and one for text."""

from __future__ import annotations

from collections.abc import Mapping

from mwactl.backbone.contract import Branch, Modality, Site
from mwactl_vlmo.model import EPS, Block


class BlockSite(Site):
    """A transformer block, through which pictures and captions pass by different experts of the same width."""

    def __init__(self, depth: int, block: Block, width: int) -> None:
        super().__init__(f"layer/{depth}", depth=depth, width=width, eps=EPS, modalities=("image", "text"))
        self._block = block

    def attach(self, extractors: Mapping[Modality, Branch], enhancers: Mapping[Modality, Branch]) -> None:
        """Compute with these modules from now on."""
        self._block.extractors, self._block.enhancers = dict(extractors), dict(enhancers)

    def detach(self) -> None:
        """Compute as the untouched block again."""
        self._block.extractors, self._block.enhancers = {}, {}
