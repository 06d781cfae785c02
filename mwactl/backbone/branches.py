"""The paper's two equations, in the one place where every host of modules computes them."""

from __future__ import annotations

from torch import Tensor

from mwactl.backbone.contract import Branch


def with_branches(x1: Tensor, x2: Tensor, extractor: Branch | None, enhancer: Branch | None) -> Tensor:
    """`x2 + KE(x1)`, then `+ AE(…)` (equations 1 and 2): what an adapted block gives.

    Args:
        x1: The residual stream after attention, […, d].
        x2: After the FFN, […, d].
        extractor: The Knowledge Extractor of these tokens' modality, or None.
        enhancer: Its Alignment Enhancer, or None.
    """
    if extractor is not None:
        x2 = x2 + extractor(x1)
    return x2 if enhancer is None else x2 + enhancer(x2)
