"""open_clip models as ONNX graphs: timm pictures, a BERT that masks padding, and towers that need all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mwactl.adapter import AdaptedModel, fold, inject
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.export.towers import examples_of, trace_towers
from mwactl.progress import Silent
from mwactl_clip.backbone import ClipBackbone

METHOD = MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8))


@pytest.mark.parametrize("kind", ["timm", "hf"])  # open_clip's own blocks: tests/export
def test_the_graphs_compute_what_the_adapted_model_computes(
    kind: str,
    build: Callable[..., ClipBackbone],
    train_a_little: Callable[[AdaptedModel], None],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    backbone = build(request.getfixturevalue(f"{kind}_folder"))
    adapted, portable = inject(backbone, METHOD), backbone.portable()
    train_a_little(adapted)
    traced = trace_towers(
        fold(adapted), backbone, portable, examples_of(adapted, backbone, portable),
        dtype="fp32", opset=20, folder=tmp_path / "graphs", reporter=Silent(),
    )  # fmt: skip
    assert traced.text_length is None  # captions of any length: both text towers ignore padding
