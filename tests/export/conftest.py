"""The tiny CLIP with an adapter that does something, exported once for all tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from mwactl.adapter import AdaptedModel, fold, inject
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.contract import Backbone
from mwactl.backbone.portable import Portable
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.export.bundle import Content
from mwactl.export.golden import golden
from mwactl.export.graph import TowerName
from mwactl.export.towers import Examples, Graphs, examples_of, trace_towers
from mwactl.progress import Silent


@dataclass(frozen=True)
class TinyExport:
    """A model and its graphs.

    Args:
        adapted: Not folded.
        graphs: Of the folded model, in fp32.
        examples: What torch makes of the check's input.
    """

    adapted: AdaptedModel
    graphs: Graphs
    examples: Examples

    @property
    def backbone(self) -> Backbone:
        """Of the adapted model."""
        return self.adapted.backbone

    @property
    def portable(self) -> Portable:
        """Its preprocessing."""
        return self.backbone.portable()


@pytest.fixture(scope="session")
def make_adapted(tiny_clip: Path) -> Callable[[], AdaptedModel]:
    """make_adapted(): the same model every time, every module of its adapter away from zero."""

    def make() -> AdaptedModel:
        plugin, spec = find_spec(f"clip:local-dir:{tiny_clip}")
        backbone = plugin.build(spec, WeightsRequest())
        model = inject(backbone, MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8)))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.trainable().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model

    return make


@pytest.fixture(scope="session")
def tiny(make_adapted: Callable[[], AdaptedModel], tmp_path_factory: pytest.TempPathFactory) -> TinyExport:
    """In fp32. Not to be changed."""
    adapted, folded = make_adapted(), fold(make_adapted())
    backbone = adapted.backbone
    examples = examples_of(adapted, backbone, backbone.portable())
    traced = trace_towers(
        folded, folded.backbone, backbone.portable(), examples,
        dtype="fp32", opset=20, folder=tmp_path_factory.mktemp("tiny") / "graphs", reporter=Silent(),
    )  # fmt: skip
    return TinyExport(adapted, traced.graphs, examples)


@pytest.fixture(scope="session")
def content(tiny: TinyExport) -> Content:
    """All of a bundle of `tiny` but its graphs."""
    facts = {
        "schema": 1,
        "kind": "mwactl-bundle",
        "identity": "ab" * 32,
        "model": {"reference": "tiny@1", "backbone": {"name": "clip:local-dir:tiny-clip"}},
        "preprocess": tiny.portable.digest,
        "embedding_width": tiny.backbone.embedding_width,
        "dtype": "fp32",
        "opset": 20,
    }
    return Content(facts, tiny.portable, golden(tiny.adapted, tiny.backbone, tiny.portable))


@pytest.fixture(scope="session")
def run() -> Callable[[Path | bytes, NDArray[np.generic]], NDArray[np.float32]]:
    """run(graph, input): what onnxruntime computes."""

    def compute(graph: Path | bytes, given: NDArray[np.generic]) -> NDArray[np.float32]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        rows: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: given})[0]
        return rows

    return compute


@pytest.fixture
def graph_of(tiny: TinyExport) -> Callable[[TowerName], onnx.ModelProto]:
    """graph_of(tower): a copy to change."""
    return lambda tower: copy.deepcopy(onnx.load(tiny.graphs[tower]))
