"""Both towers of a model as files of graphs, each shown to be what torch computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from mwactl.backbone.contract import Backbone
from mwactl.backbone.portable import Portable
from mwactl.export.check import Example, caption_examples, check_graph, picture_examples
from mwactl.export.graph import TOWERS, Model, TowerName, trace_image, trace_text
from mwactl.export.parity import TOLERANCES, DType
from mwactl.export.storage import save
from mwactl.progress import Reporter

_TORCH: dict[DType, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float32}

Examples = Mapping[TowerName, list[Example]]
Graphs = Mapping[TowerName, Path]


@dataclass(frozen=True)
class Traced:
    """Two graphs.

    Args:
        graphs: Their files, without facts.
        text_length: The only caption length that the text graph takes; None: any.
    """

    graphs: Graphs
    text_length: int | None


def examples_of(model: Model, backbone: Backbone, portable: Portable) -> Examples:
    """What the graphs must take and give, by torch in fp32."""
    return {
        "image": picture_examples(model, backbone),
        "text": caption_examples(model, backbone, portable),
    }


def trace_towers(
    model: Model,
    backbone: Backbone,
    portable: Portable,
    examples: Examples,
    *,
    dtype: DType,
    opset: int,
    folder: Path,
    reporter: Reporter,
) -> Traced:
    """Trace, write and check both towers; of int8 the fp32 graphs that it is made from.

    Args:
        model: In evaluation mode, in fp32; afterwards it is in the precision of the graphs.
        backbone: What it stands on.
        portable: Its preprocessing.
        examples: As `examples_of` gives them, of the model that the graphs must equal.
        dtype: What the bundle computes in.
        opset: The version of the ONNX operators.
        folder: A new folder, for the graphs.
        reporter: Is told what is done.

    Raises:
        IncompatibleError: A tower cannot be written as ONNX.
        VerificationError: A graph does not compute what torch computes.
        ResourceError: The disk is full.
    """
    precision = _TORCH[dtype]
    model.to(precision)
    folder.mkdir()
    graphs: dict[TowerName, Path] = {}
    text_length = None
    for tower in TOWERS:
        reporter.info(f"tracing the {tower} tower")
        graphs[tower] = folder / f"{tower}.onnx"
        if tower == "image":
            graph = trace_image(model, backbone, opset=opset, dtype=precision)
        else:
            graph, text_length = trace_text(model, backbone, portable, opset=opset, dtype=precision)
        save(graph, graphs[tower])
        del graph  # as large as the model: not kept while the other is traced
        check_graph(graphs[tower], tower, examples[tower], TOLERANCES["fp16" if dtype == "fp16" else "fp32"])
    return Traced(graphs, text_length)
