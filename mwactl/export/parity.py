"""How near the exported model is to torch's: the whole way from a picture's file and a caption to a ranking.

Shape notation: i pictures, t captions, e the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mwactl.evaluate.encode import Embeddings
from mwactl.evaluate.protocols import RetrievalResult, evaluate_embeddings

DType = Literal["fp32", "fp16", "int8"]
NEIGHBOURS = 10
#: Among fewer pictures many of the nearest ten are shared by chance (among ten: all), so agreement says little.
FEWEST_PICTURES = 100
_TEXTS_A_STRIP = 1024
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Tolerance:
    """How far unit rows may be from torch's.

    Args:
        max_abs: The largest difference of two numbers.
        min_cosine: The smallest cosine of two rows.
    """

    max_abs: float
    min_cosine: float

    def as_dict(self) -> dict[str, float]:
        """JSON values."""
        return asdict(self)


#: What is refused beyond. int8 has no number of its own here: what it may cost is the gate's to say.
TOLERANCES: dict[DType, Tolerance] = {
    "fp32": Tolerance(max_abs=1e-5, min_cosine=0.99999),
    # The cosine alone would let one number be 0.03 off. Rounding spreads over all of them, and is below 1e-4 on a CPU:
    # twenty times that leaves room for the kernels of any GPU, and none for a number that is wrong.
    "fp16": Tolerance(max_abs=2e-3, min_cosine=0.9995),
}


@dataclass(frozen=True)
class TowerParity:
    """One tower against torch.

    Args:
        rows: How many embeddings were compared.
        max_abs: The largest difference of two numbers.
        min_cosine: The smallest cosine of two rows.
        mean_cosine: The mean cosine.
    """

    rows: int
    max_abs: float
    min_cosine: float
    mean_cosine: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether it is near enough."""
        return self.max_abs <= tolerance.max_abs and self.min_cosine >= tolerance.min_cosine


@dataclass(frozen=True)
class Parity:
    """An exported model against torch, on the same pictures and captions.

    Args:
        image: The picture tower.
        text: The text tower.
        top10: Of the ten pictures nearest to each caption, the share that both find, in percent; None: there are too
            few pictures for it to say anything.
        metrics: torch's and the exported model's recall: `t2i.R@1`, …, `rsum`; None: not asked for.
    """

    image: TowerParity
    text: TowerParity
    top10: float | None
    metrics: Mapping[str, tuple[float, float]] | None

    def within(self, tolerance: Tolerance) -> bool:
        """Whether both towers are near enough."""
        return self.image.within(tolerance) and self.text.within(tolerance)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        recall = None
        if self.metrics is not None:
            recall = {
                name: {"torch": ours, "exported": theirs, "change": theirs - ours}
                for name, (ours, theirs) in self.metrics.items()
            }
        return {"image": asdict(self.image), "text": asdict(self.text), "top10": self.top10, "recall": recall}


def compare(reference: Embeddings, exported: Embeddings, pairs: NDArray[np.int64] | None = None) -> Parity:
    """Compare the embeddings of the same pictures and captions.

    Args:
        reference: torch's.
        exported: The exported model's.
        pairs: [p, 2]: (picture, caption); with them recall is measured for both.
    """
    metrics = None
    if pairs is not None:
        ours = _metrics(evaluate_embeddings(reference.images, reference.texts, pairs))
        theirs = _metrics(evaluate_embeddings(exported.images, exported.texts, pairs))
        metrics = {name: (ours[name], theirs[name]) for name in ours}
    return Parity(
        image=_tower(reference.images, exported.images),
        text=_tower(reference.texts, exported.texts),
        top10=_common_neighbours(reference, exported),
        metrics=metrics,
    )


def _tower(reference: Rows, exported: Rows) -> TowerParity:
    """[n, e] against [n, e]; a number that is none counts as infinitely far."""
    apart = np.abs(exported.astype(np.float64) - reference)
    cosines = np.einsum("ne,ne->n", exported.astype(np.float64), reference.astype(np.float64))
    return TowerParity(
        rows=len(reference),
        max_abs=float(np.nan_to_num(apart, nan=np.inf).max()),
        min_cosine=float(np.nan_to_num(cosines, nan=-1.0).min()),
        mean_cosine=float(np.nan_to_num(cosines, nan=-1.0).mean()),
    )


def _common_neighbours(reference: Embeddings, exported: Embeddings) -> float | None:
    """The mean share, in percent, of each caption's nearest pictures that both models agree on."""
    if len(reference.images) < FEWEST_PICTURES:
        return None
    shared = 0
    for start in range(0, len(reference.texts), _TEXTS_A_STRIP):
        strip = slice(start, start + _TEXTS_A_STRIP)
        ours = _nearest(reference.texts[strip], reference.images)
        theirs = _nearest(exported.texts[strip], exported.images)
        shared += int((ours[:, :, None] == theirs[:, None, :]).sum())  # [t, 10, 10]
    return 100.0 * shared / (NEIGHBOURS * len(reference.texts))


def _nearest(texts: Rows, images: Rows) -> NDArray[np.intp]:
    """The nearest pictures of each caption: [t, e] and [i, e] -> [t, 10]."""
    scores = texts @ images.T  # [t, i]
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS]


def _metrics(result: RetrievalResult) -> dict[str, float]:
    directions = {"i2t": result.image_to_text, "t2i": result.text_to_image}
    recall = {f"{short}.R@{k}": values[f"R@{k}"] for short, values in directions.items() for k in (1, 5, 10)}
    return recall | {"rsum": result.rsum}
