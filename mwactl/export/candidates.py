"""Bundles that are tried: each is written as it would be deployed, run by the runtime, and compared with torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwactl.data import CaptionedImages
from mwactl.evaluate.encode import Embeddings
from mwactl.export.bundle import Content, open_unmeasured, write_bundle
from mwactl.export.graph import TowerName
from mwactl.export.parity import Parity, compare
from mwactl.export.towers import Graphs
from mwactl.progress import Reporter, track
from mwactl.runtime import RetrievalModel

Rows = NDArray[np.float32]
#: How much of the material the damage of one block is measured on.
_SAMPLE = {"image": 32, "text": 64}
_BATCH = {"image": 32, "text": 256}


@dataclass(frozen=True)
class Material:
    """What an export is measured on.

    Args:
        dataset: Pictures and captions.
        recall: Whether recall on them means something, so that it is reported.
    """

    dataset: CaptionedImages
    recall: bool


class Candidates:
    """Measures graphs against torch.

    Args:
        work: An empty folder, for what is tried.
        content: All of a bundle but its graphs.
        material: What they are measured on.
        reference: torch's embeddings of it.
        threads: How many compute.
        reporter: Is told of long work.
    """

    def __init__(
        self,
        work: Path,
        content: Content,
        material: Material,
        reference: Embeddings,
        *,
        threads: int,
        reporter: Reporter,
    ) -> None:
        self._work = work
        self._content = content
        self._material = material
        self._reference = reference
        self._threads = threads
        self._reporter = reporter
        self._known: dict[Path, Rows] = {}

    def measure(self, graphs: Graphs) -> Parity:
        """A pair of graphs against torch, on all of the material; a graph that was measured before is not run again."""
        pairs = self._material.dataset.pairs if self._material.recall else None
        if new := [tower for tower, graph in graphs.items() if graph not in self._known]:
            model = self._open(graphs)
            for tower in new:
                self._known[graphs[tower]] = self._encode(model, tower)
            self._close(model)
        return compare(self._reference, Embeddings(self._known[graphs["image"]], self._known[graphs["text"]]), pairs)

    def damage(self, graphs: Graphs, tower: TowerName) -> float:
        """How far the rows of one tower are from torch's on a sample: the mean of 1 - cosine."""
        items = self._items(tower)
        chosen = np.linspace(0, len(items) - 1, min(_SAMPLE[tower], len(items))).astype(int)
        expected = {"image": self._reference.images, "text": self._reference.texts}[tower][chosen]
        model = self._open(graphs)
        rows = _run(model, tower, [items[index] for index in chosen])
        self._close(model)
        return float(1 - (rows * expected).sum(axis=1).mean())

    def replay(self, graphs: Graphs) -> dict[str, Any]:
        """What a bundle of these graphs says when it verifies itself, whatever it says."""
        model = self._open(graphs)
        report = model.verify()
        self._close(model)
        return report

    def _items(self, tower: TowerName) -> tuple[Any, ...]:
        dataset = self._material.dataset
        return dataset.images if tower == "image" else dataset.captions

    def _encode(self, model: RetrievalModel, tower: TowerName) -> Rows:
        items = self._items(tower)
        order = list(range(len(items)))
        if tower == "text":  # by length, as the runtime does it: these parts are then the batches of one call
            order.sort(key=lambda index: len(items[index]))
        size = _BATCH[tower]
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        rows = np.empty((len(items), model.width), np.float32)
        label = {"image": "pictures (onnx)", "text": "captions (onnx)"}[tower]
        for part in track(parts, self._reporter, label, len(items), size=len):
            rows[part] = _run(model, tower, [items[index] for index in part])
        return rows

    def _open(self, graphs: Graphs) -> RetrievalModel:
        folder = self._work / "candidate"
        write_bundle(folder, self._content, graphs)
        return open_unmeasured(folder, self._threads)

    @staticmethod
    def _close(model: RetrievalModel) -> None:
        shutil.rmtree(model.folder)


def _run(model: RetrievalModel, tower: TowerName, items: list[Any]) -> Rows:
    """Pictures or captions -> [n, e]."""
    size = _BATCH[tower]
    if tower == "text":
        return model.encode_texts(items, size)
    return model.encode_images([item if isinstance(item, Path) else item.read_bytes() for item in items], size)
