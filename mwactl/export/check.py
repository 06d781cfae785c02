"""Whether a graph really is what was traced: any number of pictures or captions, of any length, with torch's result.

An exporter may take what it sees in an example for a constant: a batch of one, a caption's length, a mask of that
length. Such a graph works on the example and on nothing else, so it is run on everything else here.

Shape notation: b batch, s tokens, e the shared space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import Tensor

from mwactl.backbone.contract import Backbone, unit_rows
from mwactl.backbone.portable import Portable
from mwactl.errors import VerificationError
from mwactl.export.graph import INPUTS, OUTPUT, WITH_TORCH, Model, TowerName, without_padding
from mwactl.export.parity import Tolerance

BATCHES = (1, 2, 5)
#: Of growing length; the last is cut at the model's context.
_CAPTIONS = (
    ("dogs", "a cat", "snow", "a red ball", "horses"),
    ("a man on a horse in the snow", "two cats and a dog", "three women", "a child with a ball", "rain"),
    ("a very long caption " * 80, "two dogs on a beach " * 40, "a red car " * 90, "a", "birds in a tree " * 60),
)


@dataclass(frozen=True)
class Example:
    """An input that a graph must take, and what torch makes of it.

    Args:
        about: What is special about it, in a few words.
        given: Pixels [b, 3, h, w] or tokens [b, s].
        expected: Unit rows [b, e].
    """

    about: str
    given: Tensor
    expected: Tensor


@torch.inference_mode()
def picture_examples(model: Model, backbone: Backbone) -> list[Example]:
    """Batches of noise; torch computes each picture alone."""
    pixels = torch.randn(max(BATCHES), 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))
    expected = unit_rows(torch.cat([model.encode_image(picture[None]) for picture in pixels]).float())
    return [Example(f"a batch of {size}", pixels[:size], expected[:size]) for size in BATCHES]


@torch.inference_mode()
def caption_examples(model: Model, backbone: Backbone, portable: Portable) -> list[Example]:
    """Batches of captions of three lengths, without and with more padding than they need; torch computes each alone."""
    return list(_caption_examples(model, backbone, portable))


def _caption_examples(model: Model, backbone: Backbone, portable: Portable) -> Iterator[Example]:
    for captions in _CAPTIONS:
        tokens = backbone.tokenize(captions)
        expected = unit_rows(torch.cat([model.encode_text(row[None]) for row in tokens]).float())
        for size in BATCHES:
            given = [tokens[:size]]
            if portable.text["trim"]:
                given.append(without_padding(given[0], int(portable.text["padding"])))
            for padded in given:
                yield Example(f"a batch of {size}, {padded.shape[1]} tokens long", padded, expected[:size])


def check_graph(path: Path, tower: TowerName, examples: list[Example], tolerance: Tolerance) -> None:
    """Run a graph on every example.

    Raises:
        VerificationError: It cannot take one, or gives something else than torch.
    """
    session = _session(path)
    for example in examples:
        try:
            rows = session.run([OUTPUT], {INPUTS[tower]: example.given.numpy()})[0]
        except Exception as error:  # onnxruntime's errors have no class of their own in common
            raise _wrong(
                tower, f"it cannot take {example.about}: {str(error).strip().splitlines()[0][:200]}"
            ) from error
        expected = example.expected.numpy()
        if rows.shape != expected.shape:
            raise _wrong(tower, f"for {example.about} it gives {list(rows.shape)}, not {list(expected.shape)}")
        apart, cosine = float(np.abs(rows - expected).max()), float((rows * expected).sum(axis=1).min())
        if not (apart <= tolerance.max_abs and cosine >= tolerance.min_cosine):  # also where they are no numbers
            raise _wrong(tower, f"for {example.about} it is {apart:.2g} from torch, cosine {cosine:.6f}")


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and told once
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _wrong(tower: TowerName, why: str) -> VerificationError:
    return VerificationError(
        f"the graph of the {tower} tower does not compute what torch computes; nothing was written",
        where=f"{tower}.onnx",
        why=why,
        fix=f"report the backbone's name and this line; until then: {WITH_TORCH}",
    )
