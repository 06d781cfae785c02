"""int8: the linear maps of a graph with 8-bit weights, their input rounded to 8 bits as it comes (dynamically).

Weights have a scale for each output channel. They use 7 of the 8 bits: processors without VNNI instructions add two
products in 16 bits, which 8-bit weights overflow, so that embeddings would depend on the processor.

Not quantised: products of two activations (attention scores), the patch convolution, embedding tables, and the last
linear map, whose result is the embedding itself.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

from mwactl.errors import MwactlError
from mwactl.export.cleaning import block_of
from mwactl.export.storage import LARGEST_BYTES, save, size_bytes, weights_file


@dataclass(frozen=True)
class Quantised:
    """What was quantised of one graph.

    Args:
        maps: How many linear maps have int8 weights.
        of_maps: How many the graph has.
        share: The share of all stored numbers that are int8, 0 to 1 (an embedding table counts, and is not).
    """

    maps: int
    of_maps: int
    share: float


def blocks_of(path: Path) -> tuple[str, ...]:
    """The blocks of a graph that have linear maps to quantise, in the order they compute."""
    return tuple(dict.fromkeys(block_of(node) for node in _candidates(_load(path))))


def quantise(source: Path, target: Path, *, keep: Collection[str] = ()) -> Quantised:
    """Write a copy of a graph with int8 weights.

    Args:
        source: A cleaned fp32 graph.
        target: A file that is not there yet.
        keep: The blocks (of `blocks_of`) that stay in fp32.

    Raises:
        MwactlError: onnxruntime left a linear map out.
    """
    model = _load(source)
    wanted = {node.name for node in _candidates(model) if block_of(node) not in keep}
    rest = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.name not in wanted]
    if not wanted:
        model = onnx.load(source)
        save(model, target)
        return _counted(model)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # advice to optimise the graph first, which would give its nodes other names
    try:
        quantize_dynamic(
            source, target, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True,
            weight_type=QuantType.QInt8, nodes_to_exclude=rest,
            use_external_data_format=size_bytes(source) > LARGEST_BYTES,
        )  # fmt: skip
    finally:
        logging.disable(before)
    result = onnx.load(target)
    done = _tidied(result, target)
    if done.maps != len(wanted):
        raise MwactlError(
            f"{len(wanted) - done.maps} of {len(wanted)} linear maps could not be quantised",
            where=source.name,
            why="this version of onnxruntime knows no int8 form of them",
            fix="pip install --upgrade onnxruntime, or export without --quantize",
        )
    return done


def _tidied(model: onnx.ModelProto, path: Path) -> Quantised:
    """Write the graph again without the quantiser's notes, and count what is in it."""
    del model.metadata_props[:]
    path.unlink()
    weights_file(path).unlink(missing_ok=True)
    save(model, path)
    return _counted(model)


def _counted(model: onnx.ModelProto) -> Quantised:
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    numbers = {name: _count(tensor) for name, tensor in stored.items()}
    integer = [node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"]
    in_int8 = sum(numbers[name] for name in set(integer) if stored[name].data_type == TensorProto.INT8)
    plain = sum(node.op_type == "MatMul" and node.input[1] in stored for node in model.graph.node)
    return Quantised(maps=len(integer), of_maps=len(integer) + plain, share=in_int8 / sum(numbers.values()))


def _candidates(model: onnx.ModelProto) -> list[NodeProto]:
    """The linear maps but the last, in order: products with stored weights."""
    stored = {tensor.name for tensor in model.graph.initializer}
    maps = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in stored]
    return maps[:-1]


def _load(path: Path) -> onnx.ModelProto:
    """The graph without weights that lie beside it."""
    return onnx.load(path, load_external_data=False)


def _count(tensor: TensorProto) -> int:
    count = 1
    for length in tensor.dims:
        count *= length
    return count
