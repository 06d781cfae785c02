"""The method: Knowledge Extractor, Alignment Enhancer, inject, strip, and what is trained."""

from mwactl.adapter.adapted import AdaptedModel, inject, strip
from mwactl.adapter.canary import check_active
from mwactl.adapter.modules import AlignmentEnhancer, KnowledgeExtractor
from mwactl.adapter.mwa import MultiWayAdapter

__all__ = [
    "AdaptedModel",
    "AlignmentEnhancer",
    "KnowledgeExtractor",
    "MultiWayAdapter",
    "check_active",
    "inject",
    "strip",
]
