"""VLMo as ONNX graphs: packed rows, experts and relative positions, and padding that a graph must compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mwactl.adapter import AdaptedModel, fold, inject
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import VerificationError
from mwactl.export.check import check_graph
from mwactl.export.graph import TOWERS
from mwactl.export.parity import TOLERANCES
from mwactl.export.quantise import quantise
from mwactl.export.towers import examples_of, trace_towers
from mwactl.progress import Silent
from mwactl_vlmo.backbone import VlmoBackbone

METHOD = MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8))


def test_the_graphs_compute_what_the_adapted_model_computes(
    backbone: VlmoBackbone, train_a_little: Callable[[AdaptedModel], None], tmp_path: Path
) -> None:
    """Of any number of pictures and captions, of any length: `trace_towers` checks it; here it is shown to check."""
    adapted, portable = inject(backbone, METHOD), backbone.portable()
    untrained = examples_of(adapted, backbone, portable)
    train_a_little(adapted)
    examples = examples_of(adapted, backbone, portable)
    traced = trace_towers(
        fold(adapted), backbone, portable, examples,
        dtype="fp32", opset=20, folder=tmp_path / "graphs", reporter=Silent(),
    )  # fmt: skip
    assert traced.text_length is None
    for tower in TOWERS:
        with pytest.raises(VerificationError, match="from torch"):
            check_graph(traced.graphs[tower], tower, untrained[tower], TOLERANCES["fp32"])
        quantised = quantise(traced.graphs[tower], tmp_path / f"{tower}.onnx")
        # Every linear map but the last, which makes the embedding; those of packed rows as well.
        assert quantised.maps == quantised.of_maps - 1 == 3 * (2 + 2 + 2)
