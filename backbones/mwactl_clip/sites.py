"""The places in open_clip's towers where MultiWay-Adapter modules attach, and why a tower has none.

Hosts are blocks of three libraries: open_clip's own, timm's, and the layers of Hugging Face's text models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from mwactl.backbone.contract import Modality, Site
from mwactl.errors import IncompatibleError
from mwactl_clip.hugging_face_blocks import TEXT_HOSTS
from mwactl_clip.open_clip_blocks import OpenClipSite
from mwactl_clip.timm_blocks import TimmSite


def tower_sites(model: nn.Module, tower: Modality) -> list[Site]:
    """The sites of one tower, in depth order.

    Raises:
        IncompatibleError: The tower has no transformer blocks of a kind that can host modules.
    """
    kind, blocks, site = _image_blocks(model) if tower == "image" else _text_blocks(model)
    sites = [site(tower, depth, block) for depth, block in enumerate(blocks)]
    if not sites:
        raise _refusal(tower, f"it is a {kind}")
    return sites


_Blocks = tuple[str, Iterable[nn.Module], Callable[[Modality, int, Any], Site]]


def _image_blocks(model: nn.Module) -> _Blocks:
    visual: Any = model.visual
    trunk = getattr(visual, "trunk", visual)
    if hasattr(trunk, "transformer"):
        blocks = trunk.transformer.resblocks
    elif hasattr(trunk, "blocks"):
        blocks = trunk.blocks
    else:  # Swin has stages of blocks; what convolutional networks call so are no blocks of these kinds
        blocks = [block for stage in getattr(trunk, "layers", ()) for block in getattr(stage, "blocks", ())]
    return type(trunk).__name__, blocks, _own_or_timm_site


def _text_blocks(model: nn.Module) -> _Blocks:
    text: Any = getattr(model, "text", model)
    config = getattr(text, "config", None)
    if config is None:
        return type(text).__name__, text.transformer.resblocks, _own_or_timm_site
    host = TEXT_HOSTS[config.model_type]
    return config.model_type, text.transformer.get_submodule(host.layers), host.site


def _own_or_timm_site(tower: Modality, depth: int, block: nn.Module) -> Site:
    for site in (OpenClipSite, TimmSite):
        if site.can_host(block):
            return site(tower, depth, block)
    raise _refusal(tower, f"its blocks are {type(block).__name__}")


def _refusal(tower: Modality, reason: str) -> IncompatibleError:
    other = "text" if tower == "image" else "image"
    return IncompatibleError(
        f"the {tower} tower has no transformer block that can take a Knowledge Extractor",
        why=f"{reason}; MWA attaches beside the feed-forward network of a residual transformer block",
        fix=f"adapt the other tower alone: method.mwa.modalities=[{other}]  (inject: --modalities {other})",
    )
