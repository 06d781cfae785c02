"""A BEiT-3 as ONNX graphs: packed rows, experts, and padding that a graph must compute."""

from __future__ import annotations

from collections.abc import Callable

from mwactl_beit3.backbone import Beit3Backbone


def test_the_graphs_compute_what_the_adapted_model_computes(
    backbone: Beit3Backbone, graphs_like_adapted: Callable[..., set[int]]
) -> None:
    assert graphs_like_adapted(backbone) == {2 * (4 + 2 + 2)}
