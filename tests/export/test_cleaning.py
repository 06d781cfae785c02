"""What is put right in a graph changes nothing that it computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mwactl.errors import IncompatibleError
from mwactl.export.cleaning import block_of, clean

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4)).astype(np.float32)
WEIGHTS = {
    "w": RNG.standard_normal((5, 4)).astype(np.float32),
    "plain": RNG.standard_normal((4, 5)).astype(np.float32),
    "bias": RNG.standard_normal(5).astype(np.float32),
}


def model_of(*nodes: NodeProto, **stored: np.ndarray) -> onnx.ModelProto:
    """A graph from x [n, 4] to y [n, 5] with these nodes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])
    tensors = [numpy_helper.from_array(values, name) for name, values in (WEIGHTS | stored).items()]
    graph = helper.make_graph(list(nodes), "test", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (helper.make_node("Gemm", ["x", "w", "bias"], ["y"], "g", transB=1), X @ WEIGHTS["w"].T + WEIGHTS["bias"]),
        (helper.make_node("Gemm", ["x", "plain", "bias"], ["y"], "g"), X @ WEIGHTS["plain"] + WEIGHTS["bias"]),
        (helper.make_node("Gemm", ["x", "w"], ["y"], "g", transB=1), X @ WEIGHTS["w"].T),
    ],
)
def test_a_gemm_becomes_a_product_and_a_sum(run, node, expected):
    model = clean(model_of(node), half=False)
    onnx.checker.check_model(model)
    assert {node.op_type for node in model.graph.node} <= {"MatMul", "Add"}
    np.testing.assert_allclose(run(model.SerializeToString(), X), expected, rtol=0, atol=1e-6)


def test_transposed_weights_are_stored_once_and_the_originals_leave():
    twice = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "g1", transB=1),
        helper.make_node("Gemm", ["x", "w"], ["b"], "g2", transB=1),
        helper.make_node("Add", ["a", "b"], ["y"], "sum"),
    ]
    model = clean(model_of(*twice), half=False)
    assert [(tensor.name, list(tensor.dims)) for tensor in model.graph.initializer] == [("w.T", [4, 5])]


@pytest.mark.parametrize("options", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_gemm_that_is_no_linear_map_is_refused(options):
    node = helper.make_node("Gemm", ["x", "plain", "bias"], ["y"], "g", **options)
    with pytest.raises(IncompatibleError, match="no linear map; in g"):
        clean(model_of(node), half=False)


@pytest.mark.parametrize("half", [False, True])
def test_a_mask_of_infinity_becomes_one_that_survives_a_sum_in_the_graphs_precision(half):
    mask = np.array([0, -np.inf, np.inf, 1, -3.4e38], np.float32)
    model = clean(model_of(helper.make_node("Gemm", ["x", "plain", "mask"], ["y"], "g"), mask=mask), half=half)
    found = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "mask")
    precision = np.float16 if half else np.float32
    assert np.isfinite(found.astype(precision) * precision(1.5)).all()
    assert found[[0, 3]].tolist() == [0, 1]
    assert found[1] < (-3e4 if half else -1e38)


def test_numbers_that_are_finite_stay_as_they_are():
    extreme = np.array([3.4e38, -3.4e38, 1e-40, 65504, 0], np.float32)
    model = clean(model_of(helper.make_node("Gemm", ["x", "plain", "e"], ["y"], "g"), e=extreme), half=False)
    found = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "e")
    assert np.array_equal(found, extreme)


def test_constants_inside_nodes_are_looked_at_too():
    infinite = numpy_helper.from_array(np.full(5, -np.inf, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["c"], "c", value=infinite),
        helper.make_node("Gemm", ["x", "plain", "c"], ["y"], "g"),
    ]
    model = clean(model_of(*nodes), half=False)
    constant = next(node for node in model.graph.node if node.op_type == "Constant")
    assert np.isfinite(numpy_helper.to_array(constant.attribute[0].t)).all()


def test_only_the_block_is_kept_of_what_the_exporter_notes():
    node = helper.make_node("Gemm", ["x", "plain"], ["y"], "g", doc_string="File /home/someone/model.py")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File /home/someone/model.py")
    scopes = "['', 'model.encoder', 'model.encoder.layers.7', 'model.encoder.layers.7.mlp.0', 'linear']"
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    model = model_of(node)
    model.graph.doc_string = model.doc_string = "File /home/someone/model.py"
    cleaned = clean(model, half=False)
    assert b"someone" not in cleaned.SerializeToString()
    assert {block_of(node) for node in cleaned.graph.node} == {"encoder.layers.7"}


def test_a_node_of_no_block_is_a_block_of_its_own():
    model = clean(model_of(helper.make_node("Gemm", ["x", "plain"], ["y"], "g")), half=False)
    assert [block_of(node) for node in model.graph.node] == ["g.MatMul"]


def test_a_norm_in_half_precision_sums_in_full(run):
    """Also where its weights are used elsewhere, and stay in half there."""
    half = {name: values.astype(np.float16) for name, values in WEIGHTS.items()}
    scale, shift = (RNG.standard_normal(4).astype(np.float16) for _ in range(2))
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], "in", to=TensorProto.FLOAT16),
        helper.make_node("LayerNormalization", ["h", "scale", "shift"], ["n"], "norm", axis=-1),
        helper.make_node("Add", ["n", "shift"], ["again"], "again"),
        helper.make_node("Gemm", ["again", "plain", "bias"], ["z"], "g"),
        helper.make_node("Cast", ["z"], ["y"], "out", to=TensorProto.FLOAT),
    ]
    model = clean(model_of(*nodes, **half, scale=scale, shift=shift), half=True)
    onnx.checker.check_model(model)
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert [kinds[name] for name in norm.input[1:]] == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert kinds["shift"] == TensorProto.FLOAT16
    normed = (X - X.mean(1, keepdims=True)) / np.sqrt(X.var(1, keepdims=True) + 1e-5)
    expected = (normed * scale + 2 * shift) @ WEIGHTS["plain"] + WEIGHTS["bias"]
    np.testing.assert_allclose(run(model.SerializeToString(), X), expected, rtol=0, atol=2e-2)
