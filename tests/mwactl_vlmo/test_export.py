"""VLMo as ONNX graphs: packed rows, experts and relative positions, and padding that a graph must compute."""

from __future__ import annotations

from collections.abc import Callable

from mwactl_vlmo.backbone import VlmoBackbone


def test_the_graphs_compute_what_the_adapted_model_computes(
    backbone: VlmoBackbone, graphs_like_adapted: Callable[..., set[int]]
) -> None:
    assert graphs_like_adapted(backbone) == {3 * (2 + 2 + 2)}
