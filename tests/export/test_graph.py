"""The graphs are the model: for every input, with every module, and with nothing of this machine in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from mwactl.adapter import AdaptedModel, fold
from mwactl.adapter.mwa import SiteModules
from mwactl.backbone.contract import unit_rows
from mwactl.errors import IncompatibleError, VerificationError
from mwactl.export.check import caption_examples, check_graph
from mwactl.export.graph import TOWERS, PictureTower, trace_image, trace_text, without_padding
from mwactl.export.parity import TOLERANCES
from mwactl.export.storage import save
from mwactl.export.towers import examples_of, trace_towers
from mwactl.progress import Silent

# -- every module is in the graph -------------------------------------------------------------------------------------


def test_the_graphs_equal_the_adapted_and_the_merged_model(tiny, make_adapted):
    merged = fold(make_adapted())
    again = examples_of(merged, merged.backbone, tiny.portable)
    for tower in TOWERS:
        check_graph(tiny.graphs[tower], tower, tiny.examples[tower], TOLERANCES["fp32"])
        check_graph(tiny.graphs[tower], tower, again[tower], TOLERANCES["fp32"])


def test_a_model_without_any_one_module_is_another(tiny, make_adapted):
    """So a graph that lost one would be found out."""
    names = [
        (site, kind, owner)
        for site, modules in tiny.adapted.adapter.sites.items()
        for kind in ("knowledge_extractor", "alignment_enhancer")
        for owner in getattr(modules, kind)
    ]
    assert len(names) == 8
    for site, kind, owner in names:
        adapted = make_adapted()
        modules = adapted.adapter.sites[site]
        assert isinstance(modules, SiteModules)
        with torch.no_grad():
            for parameter in getattr(modules, kind)[owner].up.parameters():
                parameter.zero_()
        tower = "image" if site.startswith("image") else "text"
        examples = examples_of(adapted, adapted.backbone, tiny.portable)
        with pytest.raises(VerificationError, match=rf"{tower}\.onnx.* from torch, cosine"):
            check_graph(tiny.graphs[tower], tower, examples[tower], TOLERANCES["fp32"])


# -- the traps of tracing ---------------------------------------------------------------------------------------------


def test_a_graph_for_one_picture_alone_is_found_out(tiny, tmp_path):
    path = tmp_path / "image.onnx"
    torch.onnx.export(
        PictureTower(tiny.adapted, torch.float32).eval(), (torch.zeros(1, 3, 32, 32),), path, dynamo=True,
        opset_version=20, input_names=["pixels"], output_names=["embeddings"], external_data=False, verbose=False,
    )  # fmt: skip
    with pytest.raises(VerificationError, match="cannot take a batch of 2"):
        check_graph(path, "image", tiny.examples["image"], TOLERANCES["fp32"])


def test_a_lost_causal_mask_is_found_out(tiny, graph_of, tmp_path):
    graph = graph_of("text")
    mask = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("attn_mask"))
    mask.CopyFrom(numpy_helper.from_array(np.zeros(list(mask.dims), np.float32), mask.name))
    save(graph, tmp_path / "text.onnx")
    with pytest.raises(VerificationError, match="from torch, cosine"):
        check_graph(tmp_path / "text.onnx", "text", tiny.examples["text"], TOLERANCES["fp32"])


def test_what_is_no_number_is_never_near_enough(tiny, graph_of, tmp_path):
    graph = graph_of("image")
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("conv1.weight"))
    values = np.full(list(weights.dims), np.nan, np.float32)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    save(graph, tmp_path / "image.onnx")
    with pytest.raises(VerificationError, match="nan from torch"):
        check_graph(tmp_path / "image.onnx", "image", tiny.examples["image"], TOLERANCES["fp32"])


def test_what_follows_the_end_of_a_caption_does_not_matter(tiny, run):
    tokens = tiny.backbone.tokenize(["a dog", "two cats in the snow", "a"])
    with torch.inference_mode():
        expected = unit_rows(tiny.adapted.encode_text(tokens)).numpy()
    generator = np.random.default_rng(0)
    for _ in range(3):
        rubbish = torch.from_numpy(generator.integers(1, 40000, tokens.shape))
        changed = torch.where(tokens == 0, rubbish, tokens)
        np.testing.assert_allclose(run(tiny.graphs["text"], changed.numpy()), expected, rtol=0, atol=1e-5)


def test_captions_of_different_lengths_are_pooled_at_their_own_end(tiny, run):
    tokens = tiny.backbone.tokenize(["a", "two dogs on a beach", "a cat", "a very long caption " * 9])
    together = run(tiny.graphs["text"], tokens.numpy())
    alone = [run(tiny.graphs["text"], without_padding(row[None], 0).numpy())[0] for row in tokens]
    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-6)


def test_a_tower_that_needs_its_padding_takes_no_other_length_and_no_other_tower_may_be_so(tiny, run, tmp_path):
    portable = tiny.portable
    stubborn = type(portable)(portable.image, {**portable.text, "trim": False}, portable.files, portable.requirements)
    graph, length = trace_text(tiny.adapted, tiny.backbone, stubborn)
    assert length == 16
    path = tmp_path / "text.onnx"
    save(graph, path)
    check_graph(path, "text", caption_examples(tiny.adapted, tiny.backbone, stubborn), TOLERANCES["fp32"])
    with pytest.raises(VerificationError, match="cannot take a batch of 1, 3 tokens long"):
        check_graph(path, "text", tiny.examples["text"], TOLERANCES["fp32"])


# -- what is in a graph -----------------------------------------------------------------------------------------------


def test_inputs_and_outputs_are_those_that_the_runtime_knows(tiny):
    shapes = {}
    for tower in TOWERS:
        graph = onnx.load(tiny.graphs[tower])
        onnx.checker.check_model(graph)
        for value in (*graph.graph.input, *graph.graph.output):
            kind = value.type.tensor_type
            axes = [axis.dim_param or axis.dim_value for axis in kind.shape.dim]
            shapes[tower, value.name] = (kind.elem_type, axes)
    assert shapes == {
        ("image", "pixels"): (TensorProto.FLOAT, ["batch", 3, 32, 32]),
        ("image", "embeddings"): (TensorProto.FLOAT, ["batch", 16]),
        ("text", "tokens"): (TensorProto.INT64, ["batch", "length"]),
        ("text", "embeddings"): (TensorProto.FLOAT, ["batch", 16]),
    }


def test_nothing_of_this_machine_is_in_a_graph(tiny):
    for tower in TOWERS:
        data = tiny.graphs[tower].read_bytes()
        for trace in (str(Path.cwd()), str(tiny.graphs[tower].parent), "site-packages", "File ", "torch.onnx"):
            assert trace.encode() not in data, (tower, trace)


def test_every_block_is_known_by_its_name(tiny):
    graph = onnx.load(tiny.graphs["text"])
    blocks = {entry.value for node in graph.graph.node for entry in node.metadata_props if entry.key == "block"}
    assert blocks == {f"backbone.model.transformer.resblocks.{index}" for index in (0, 1)}


def test_the_same_model_gives_the_same_bytes(tiny, make_adapted, tmp_path):
    merged = fold(make_adapted())
    graph = trace_image(merged, merged.backbone)
    save(graph, tmp_path / "image.onnx")
    assert (tmp_path / "image.onnx").read_bytes() == tiny.graphs["image"].read_bytes()


def test_opset_23_has_attention_as_one_operation(tiny, tmp_path):
    graph = trace_image(tiny.adapted, tiny.backbone, opset=23)
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [23]
    assert sum(node.op_type == "Attention" for node in graph.graph.node) == 2
    save(graph, tmp_path / "image.onnx")
    check_graph(tmp_path / "image.onnx", "image", tiny.examples["image"], TOLERANCES["fp32"])


def test_a_model_that_cannot_be_traced_is_incompatible(tiny, monkeypatch):
    def look_at_values(pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0, 0] if pixels.sum() > 0 else pixels[:, 0, 1]

    monkeypatch.setattr(tiny.adapted, "encode_image", look_at_values)
    with pytest.raises(IncompatibleError, match=r"image tower cannot be written as ONNX with opset 20; .*: Could not"):
        trace_image(tiny.adapted, tiny.backbone)


# -- fp16 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(tiny, make_adapted: Callable[[], AdaptedModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    merged = fold(make_adapted())
    folder = tmp_path_factory.mktemp("half") / "graphs"
    traced = trace_towers(
        merged, merged.backbone, tiny.portable, tiny.examples, dtype="fp16", opset=20, folder=folder, reporter=Silent()
    )
    return dict(traced.graphs)


def test_half_precision_has_no_infinity_and_gives_full_precision(half, tiny, run):
    for tower in TOWERS:
        graph = onnx.load(half[tower])
        for tensor in graph.graph.initializer:
            assert np.isfinite(numpy_helper.to_array(tensor)).all(), tensor.name
        assert [value.type.tensor_type.elem_type for value in graph.graph.output] == [TensorProto.FLOAT]
        rows = run(half[tower], tiny.examples[tower][-1].given.numpy())
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        assert half[tower].stat().st_size < 0.6 * tiny.graphs[tower].stat().st_size


def test_half_precision_computes_in_half_but_for_its_sums(half):
    graph = onnx.load(half["text"]).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = [kinds[node.input[1]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in kinds]
    assert set(weights) == {TensorProto.FLOAT16}
    norms = [kinds.get(node.input[1], TensorProto.FLOAT) for node in graph.node if node.op_type == "LayerNormalization"]
    assert set(norms) == {TensorProto.FLOAT}
    assert len(weights) > len(norms) > 0


def test_half_precision_is_another_model_than_full(half, tiny):
    with pytest.raises(VerificationError, match="from torch"):
        check_graph(half["text"], "text", tiny.examples["text"], TOLERANCES["fp32"])
