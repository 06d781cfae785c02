"""The method: Knowledge Extractor, Alignment Enhancer, inject, strip, fold, and what is trained."""

from mwactl.adapter.adapted import AdaptedModel, inject, strip
from mwactl.adapter.added import Adapter
from mwactl.adapter.canary import check_active
from mwactl.adapter.fold import fold, folded_structure
from mwactl.adapter.lora import LoraAdapter
from mwactl.adapter.merged import MergedModel
from mwactl.adapter.modules import AlignmentEnhancer, KnowledgeExtractor
from mwactl.adapter.mwa import MultiWayAdapter

__all__ = [
    "AdaptedModel",
    "Adapter",
    "AlignmentEnhancer",
    "KnowledgeExtractor",
    "LoraAdapter",
    "MergedModel",
    "MultiWayAdapter",
    "check_active",
    "fold",
    "folded_structure",
    "inject",
    "strip",
]
