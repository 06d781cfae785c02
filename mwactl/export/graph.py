"""From a model to two graphs, one a tower: what goes in is what a program has, what comes out is ready to compare.

Shape notation: b batch, h and w pixels, s tokens, e the width of the shared space.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from mwactl.adapter import AdaptedModel, MergedModel
from mwactl.backbone.contract import Backbone, unit_rows
from mwactl.backbone.portable import Portable
from mwactl.errors import IncompatibleError
from mwactl.export.cleaning import clean

TowerName = Literal["image", "text"]
TOWERS: tuple[TowerName, ...] = ("image", "text")
INPUTS: dict[TowerName, str] = {"image": "pixels", "text": "tokens"}
#: Not `embedding`: a node of a traced graph may have that name, and would clash.
OUTPUT = "embeddings"
OPSET = 20
#: The first is the oldest that has GELU as one operation; the last is the newest that torch can write.
OPSETS = range(20, 26)
#: What to do where an export is not to be had.
WITH_TORCH = "use it with torch: mwactl eval, mwactl embed"

#: An example to trace with: neither one caption nor one length, which torch would take for constants.
_CAPTIONS = ("two dogs are running through the snow", "a red ball", "a man on a horse")


#: What can be traced.
Model = AdaptedModel | MergedModel | Backbone


class PictureTower(nn.Module):
    """Pictures [b, 3, h, w] fp32 -> unit rows [b, e] fp32, whatever the precision between."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self._dtype = dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, e]."""
        return unit_rows(self.model.encode_image(pixels.to(self._dtype)).float())


class TextTower(nn.Module):
    """Token ids [b, s] int64 -> unit rows [b, e] fp32."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """[b, s] -> [b, e]."""
        return unit_rows(self.model.encode_padded_text(tokens).float())


def trace_image(
    model: Model, backbone: Backbone, *, opset: int = OPSET, dtype: torch.dtype = torch.float32
) -> onnx.ModelProto:
    """The picture tower, for any number of pictures.

    Args:
        model: In evaluation mode, its weights in `dtype`.
        backbone: What it stands on.
        opset: The version of the ONNX operators.
        dtype: fp32 or fp16: what the graph computes in. Its input and output are fp32 either way.

    Raises:
        IncompatibleError: The tower has operations that torch cannot write as ONNX.
    """
    example = torch.zeros(2, 3, *backbone.image_size)
    graph = _trace(PictureTower(model, dtype), "image", example, opset)
    return clean(graph, half=dtype == torch.float16)


def trace_text(
    model: Model, backbone: Backbone, portable: Portable, *, opset: int = OPSET, dtype: torch.dtype = torch.float32
) -> tuple[onnx.ModelProto, int | None]:
    """The text tower, for any number of captions of any length.

    A tower that looks at padding (the preprocessing says that columns of padding must stay) needs captions of the full
    length to be right at all: its graph takes no other, so that a mistake is an error and not another embedding.

    Returns:
        The graph, and the only length that it takes (None: any).

    Raises:
        IncompatibleError: The tower has operations that torch cannot write as ONNX.
    """
    tokens = backbone.tokenize(_CAPTIONS)
    fixed = None if portable.text["trim"] else tokens.shape[1]
    if fixed is None:
        tokens = without_padding(tokens, int(portable.text["padding"]))
    graph = _trace(TextTower(model), "text", tokens, opset, fixed_length=fixed is not None)
    return clean(graph, half=dtype == torch.float16), fixed


def without_padding(tokens: Tensor, padding_id: int) -> Tensor:
    """Token ids without the last columns that are padding in every row: [b, s] -> [b, up to s]."""
    used = int((tokens != padding_id).any(dim=0).nonzero().max()) + 1
    return tokens[:, :used].contiguous()  # the exporter refuses a view


def _trace(
    tower: nn.Module, name: TowerName, example: Tensor, opset: int, *, fixed_length: bool = False
) -> onnx.ModelProto:
    length_varies = name == "text" and not fixed_length
    axes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} if length_varies else {0: Dim.DYNAMIC}
    try:
        with _silence():
            program = torch.onnx.export(
                tower.eval(), (example,), dynamo=True, opset_version=opset, dynamic_shapes=(axes,),
                input_names=[INPUTS[name]], output_names=[OUTPUT], verbose=False,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise IncompatibleError(
            f"the {name} tower cannot be written as ONNX with opset {opset}",
            why=_reason(error),
            fix=f"--opset {OPSET}" if opset != OPSET else WITH_TORCH,
        ) from error
    assert program is not None
    graph = program.model_proto
    _name_axes(graph, ["batch", "length"] if length_varies else ["batch"])
    return graph


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back what torch and its exporter say about themselves: nothing of it is something a user can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _name_axes(graph: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the free axes of the input and the output their names, for whoever looks at the graph."""
    for value in (graph.graph.input[0], graph.graph.output[0]):
        for axis, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if axis.HasField("dim_param"):
                axis.dim_param = name


def _reason(error: BaseException) -> str:
    """The first line of the innermost error: the exporter wraps what went wrong into pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: " + (str(error).strip().splitlines() or [""])[0][:200]
