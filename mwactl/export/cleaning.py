"""What is put right in a traced graph: nothing of this machine in it, no infinity, and linear maps of one form."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from mwactl.errors import IncompatibleError

_FLOATS: dict[int, type[np.floating[Any]]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}
_SCOPES = "pkg.torch.onnx.name_scopes"
#: The key under which a node says which block of the model it belongs to.
BLOCK = "block"


def clean(model: onnx.ModelProto, *, half: bool) -> onnx.ModelProto:
    """Make a traced graph fit to be given away; changes it in place.

    * The exporter writes stack traces with this machine's paths into every node: all that stays is the block.
    * A mask of minus infinity becomes a finite number that no score can outweigh: half precision turns infinities
      into NaN in some runtimes. `half`: one that half precision can hold, whatever precision it is stored in.
    * `Gemm` becomes `MatMul` and `Add`, the form that linear maps of other shapes have already. Quantisation then finds
      one form, and no transposed weights.
    * `half`: LayerNorms compute in fp32: their sums need it, and onnxruntime 1.31 dies where it prepares some of them
      in half precision for the CPU.

    Raises:
        IncompatibleError: A `Gemm` is not a plain linear map.
    """
    for node in model.graph.node:
        block = _block_of(node)
        del node.metadata_props[:]
        node.doc_string = ""
        if block:
            node.metadata_props.add(key=BLOCK, value=block)
    values = (model.graph.initializer, model.graph.value_info, model.graph.input, model.graph.output)
    for named in (value for kind in values for value in kind):
        del named.metadata_props[:]
        named.doc_string = ""
    del model.graph.metadata_props[:], model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for tensor in _constants(model.graph):
        _make_finite(tensor, half=half)
    _write_linear_maps_one_way(model.graph)
    if half:
        _normalise_in_full_precision(model.graph)
    return model


def block_of(node: NodeProto) -> str:
    """The block that a node of a cleaned graph belongs to; for one of no block its own name."""
    return next((entry.value for entry in node.metadata_props if entry.key == BLOCK), node.name)


def _block_of(node: NodeProto) -> str | None:
    """The outermost numbered module that a node was traced in (`….blocks.3`), from the exporter's notes."""
    notes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    scopes: list[str] = ast.literal_eval(notes)
    found = next((scope for scope in scopes[:-1] if scope.rpartition(".")[2].isdigit()), None)
    return None if found is None else found.removeprefix("model.")


def _constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every tensor that is stored in a graph."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _constants(attribute.g)


def _make_finite(tensor: TensorProto, *, half: bool) -> None:
    kind = _FLOATS.get(tensor.data_type)
    if kind is None:
        return
    # Half of the lowest number, so that a score can be added to it without reaching infinity.
    bound = float(np.finfo(np.float16 if half else kind).max) / 2
    values: NDArray[np.floating[Any]] = numpy_helper.to_array(tensor)
    if values.size and not np.abs(values).max() <= (bound if half else np.finfo(kind).max):
        tensor.CopyFrom(numpy_helper.from_array(np.clip(values, -bound, bound).astype(kind), tensor.name))


def _write_linear_maps_one_way(graph: onnx.GraphProto) -> None:
    """`Gemm(x, W, bias)` -> `Add(MatMul(x, Wᵀ), bias)`, the weights transposed once, here."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.extend(_as_matmul(node, weights, graph) if node.op_type == "Gemm" else [node])
    _keep(nodes, graph)


def _as_matmul(node: NodeProto, weights: dict[str, TensorProto], graph: onnx.GraphProto) -> list[NodeProto]:
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = options.get("alpha", 1.0) == 1.0 and options.get("beta", 1.0) == 1.0 and not options.get("transA", 0)
    x, weight, *bias = node.input
    if not plain or weight not in weights:
        raise IncompatibleError("the graph has a Gemm that is no linear map", where=node.name)
    if options.get("transB", 0):
        transposed = f"{weight}.T"
        if transposed not in weights:
            values = np.ascontiguousarray(numpy_helper.to_array(weights[weight]).T)  # [out, in] -> [in, out]
            weights[transposed] = numpy_helper.from_array(values, transposed)
            graph.initializer.append(weights[transposed])
        weight = transposed
    product = f"{node.output[0]}.product" if bias else node.output[0]
    made = [onnx.helper.make_node("MatMul", [x, weight], [product], name=f"{node.name}.MatMul")]
    if bias:
        made.append(onnx.helper.make_node("Add", [product, bias[0]], [node.output[0]], name=f"{node.name}.Add"))
    for new in made:
        new.metadata_props.extend(node.metadata_props)
    return made


def _normalise_in_full_precision(graph: onnx.GraphProto) -> None:
    """`LayerNormalization` in fp16 -> the same in fp32 between two casts, its weights stored in fp32."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "LayerNormalization":
            nodes.append(node)
            continue
        x, output = node.input[0], node.output[0]
        node.input[0], node.output[0] = f"{output}.in.fp32", f"{output}.fp32"
        for index, parameter in enumerate(node.input[1:], start=1):
            node.input[index] = _widened(parameter, weights, graph)
        nodes += [
            onnx.helper.make_node("Cast", [x], [node.input[0]], name=f"{node.name}.in", to=TensorProto.FLOAT),
            node,
            onnx.helper.make_node("Cast", [node.output[0]], [output], name=f"{node.name}.out", to=TensorProto.FLOAT16),
        ]
    _keep(nodes, graph)


def _widened(name: str, weights: dict[str, TensorProto], graph: onnx.GraphProto) -> str:
    """The name of a stored tensor's copy in fp32: the tensor itself may be used elsewhere too."""
    wide = f"{name}.fp32"
    if wide not in weights:
        values = numpy_helper.to_array(weights[name]).astype(np.float32)
        weights[wide] = numpy_helper.from_array(values, wide)
        graph.initializer.append(weights[wide])
    return wide


def _keep(nodes: list[NodeProto], graph: onnx.GraphProto) -> None:
    """Make these the graph's nodes, and drop the stored tensors that none of them uses."""
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
