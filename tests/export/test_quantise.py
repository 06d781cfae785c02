"""int8 means int8: what is counted as quantised is, what is spared is not, and a large graph stays a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from mwactl.errors import MwactlError
from mwactl.export import quantise as quantising
from mwactl.export import storage
from mwactl.export.graph import TOWERS
from mwactl.export.quantise import blocks_of, quantise

#: A block has attention's input and output maps, the folded FFN's two and the enhancer's two.
MAPS_A_BLOCK = 6


def integer_products(path):
    return [node for node in onnx.load(path).graph.node if node.op_type == "MatMulInteger"]


@pytest.mark.parametrize("tower", TOWERS)
def test_every_linear_map_but_the_last_has_int8_weights(tower, tiny, tmp_path):
    target = tmp_path / "int8.onnx"
    found = quantise(tiny.graphs[tower], target)
    assert (found.maps, found.of_maps) == (2 * MAPS_A_BLOCK, 2 * MAPS_A_BLOCK + 1)
    graph = onnx.load(target).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = [stored[node.input[1]] for node in integer_products(target)]
    assert len(weights) == found.maps
    assert {tensor.data_type for tensor in weights} == {TensorProto.INT8}
    plain = [node for node in graph.node if node.op_type == "MatMul"]
    assert len([node for node in plain if node.input[1] not in stored]) == 4  # attention: two products a block
    assert len([node for node in plain if node.input[1] in stored]) == 1


def test_the_share_counts_all_stored_numbers(tiny, tmp_path):
    found = quantise(tiny.graphs["text"], tmp_path / "int8.onnx")
    counts = {}
    for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer:
        counts[tensor.data_type] = counts.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    weights = sum(32 * out for out in (96, 32, 132, 132, 8, 8)) * 2
    assert found.share == pytest.approx(weights / sum(counts.values()))
    assert found.share < 0.05  # the vocabulary's table is most of this tiny tower


@pytest.mark.parametrize("tower", TOWERS)
def test_the_rows_are_near_and_no_longer_the_same(tower, tiny, tmp_path, run):
    quantise(tiny.graphs[tower], tmp_path / "int8.onnx")
    for example in tiny.examples[tower]:
        rows = run(tmp_path / "int8.onnx", example.given.numpy())
        cosines = (rows * example.expected.numpy()).sum(axis=1)
        assert 0.9 < cosines.min() < 0.999999


def test_weights_have_a_scale_for_each_output_and_seven_bits(tiny, tmp_path):
    quantise(tiny.graphs["image"], tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in integer_products(tmp_path / "int8.onnx"):
        weights = stored[node.input[1]]
        scales = stored[node.input[1].replace("_quantized", "_scale")]
        assert scales.shape == (weights.shape[1],)
        assert -64 <= weights.min() < -30
        assert 30 < weights.max() <= 64


def test_blocks_are_those_of_the_model_in_their_order(tiny):
    assert blocks_of(tiny.graphs["image"]) == tuple(
        f"backbone.model.visual.transformer.resblocks.{index}" for index in range(2)
    )


def test_a_spared_block_computes_as_before(tiny, tmp_path):
    _, second = blocks_of(tiny.graphs["image"])
    found = quantise(tiny.graphs["image"], tmp_path / "int8.onnx", keep=[second])
    assert (found.maps, found.of_maps) == (MAPS_A_BLOCK, 2 * MAPS_A_BLOCK + 1)
    before = {tensor.name: tensor for tensor in onnx.load(tiny.graphs["image"]).graph.initializer}
    after = {tensor.name: tensor for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    kept = [name for name, tensor in before.items() if name in after and len(tensor.dims) == 2]
    assert all(before[name].raw_data == after[name].raw_data for name in kept)
    assert len(kept) >= MAPS_A_BLOCK


def test_with_every_block_spared_the_graph_is_the_same(tiny, tmp_path):
    found = quantise(tiny.graphs["image"], tmp_path / "int8.onnx", keep=blocks_of(tiny.graphs["image"]))
    assert (found.maps, found.share) == (0, 0.0)
    assert (tmp_path / "int8.onnx").read_bytes() == tiny.graphs["image"].read_bytes()


def test_a_map_that_was_left_out_is_an_error(tiny, tmp_path, monkeypatch):
    original = quantising.quantize_dynamic

    def forgetful(*arguments, nodes_to_exclude, **options):
        first = next(node.name for node in onnx.load(arguments[0]).graph.node if node.op_type == "MatMul")
        original(*arguments, nodes_to_exclude=[*nodes_to_exclude, first], **options)

    monkeypatch.setattr(quantising, "quantize_dynamic", forgetful)
    with pytest.raises(MwactlError, match="1 of 12 linear maps could not be quantised"):
        quantise(tiny.graphs["image"], tmp_path / "int8.onnx")


def test_a_graph_with_its_weights_beside_it_can_be_quantised(tiny, tmp_path, run, monkeypatch):
    (tmp_path / "large").mkdir()
    (tmp_path / "small").mkdir()
    large = tmp_path / "large" / "image.onnx"
    storage.save(onnx.load(tiny.graphs["image"]), large, largest_bytes=1000)
    assert storage.weights_file(large).exists()
    monkeypatch.setattr(quantising, "LARGEST_BYTES", 1000)
    found = quantise(large, tmp_path / "small" / "image.onnx")
    assert found == quantise(tiny.graphs["image"], tmp_path / "plain.onnx")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["image.onnx"]
    pixels = tiny.examples["image"][-1].given.numpy()
    expected = run(tmp_path / "plain.onnx", pixels)
    np.testing.assert_array_equal(run(tmp_path / "small" / "image.onnx", pixels), expected)
