"""Parts of the queries, each compared by itself: short and long captions, pictures with the user's tags.

The candidates stay the whole split; a slice says which queries are counted. Each direction resamples the pictures that
have a query in the slice, and recall is taken over the slice as a whole, whatever blocks the protocol has.

Shape notation: n pictures, q caption queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mwactl.evaluate.bootstrap import RESAMPLES, SEED, Numbers, Table, hit_table, resample_recalls
from mwactl.evaluate.metrics import METRICS, RECALL_AT
from mwactl.evaluate.paired import Difference, differences
from mwactl.evaluate.queries import QueryRanks

Chosen = npt.NDArray[np.bool_]
NO_TAG = "(no tag)"
_LENGTHS = ("short", "medium", "long")


@dataclass(frozen=True)
class Slice:
    """Some queries of each direction."""

    name: str
    """`short`, or a tag."""
    pictures: Chosen
    """[n] whose image-to-text query is in it."""
    queries: Chosen
    """[q] which text-to-image queries are in it."""
    facts: dict[str, Any]
    """What else to say of it, for JSON: the range of words."""


@dataclass(frozen=True)
class SliceDifferences:
    """One slice of one contestant against the baseline."""

    of: Slice
    metrics: dict[str, Difference]
    """As in `METRICS` without the RSUM; without a direction that has no query in the slice."""


def by_length(captions: Sequence[str], ranks: QueryRanks) -> list[Slice]:
    """Thirds by words: of the captions, and of the pictures by their captions' mean.

    Where many are equally long the thirds are uneven; one without any query in either direction is left out.
    """
    words = np.array([len(captions[text].split()) for text in ranks.texts.tolist()], dtype=np.float64)  # [q]
    n = len(ranks.image_to_text)
    asked = np.bincount(ranks.pictures, minlength=n)
    with np.errstate(invalid="ignore"):
        means = np.bincount(ranks.pictures, weights=words, minlength=n) / asked  # [n]; NaN without a caption
    thirds_of_pictures, thirds_of_queries = _thirds(means), _thirds(words)
    slices = []
    for third, name in enumerate(_LENGTHS):
        pictures, queries = thirds_of_pictures == third, thirds_of_queries == third
        facts = {"words": {"image_to_text": _range(means[pictures]), "text_to_image": _range(words[queries])}}
        slices.append(Slice(name, pictures, queries, facts))
    return [part for part in slices if part.pictures.any() or part.queries.any()]


def by_tag(tags: Sequence[str], ranks: QueryRanks) -> list[Slice]:
    """The user's tags [n], empty where a picture has none; a caption goes with its picture."""
    of_pictures = np.array(tags)
    return [
        Slice(str(tag) or NO_TAG, of_pictures == tag, of_pictures[ranks.pictures] == tag, {})
        for tag in np.unique(of_pictures)
    ]


def slice_differences(
    contestants: Sequence[QueryRanks], slices: Sequence[Slice], *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[list[SliceDifferences]]:
    """Of each contestant but the first, which is the baseline, every slice."""
    found: list[list[SliceDifferences]] = [[] for _ in contestants[1:]]
    for number, part in enumerate(slices):
        table = hit_table(contestants, part.queries)
        metrics: list[dict[str, Difference]] = [{} for _ in found]
        for at, asked in enumerate((part.pictures, table.queries[:, -1] > 0)):
            columns = slice(at * len(RECALL_AT), (at + 1) * len(RECALL_AT))
            if asked.any():
                mine = Table(table.hits[asked][..., columns], table.queries[asked][:, columns])
                sample = resample_recalls(mine, METRICS[columns], resamples, np.random.default_rng([seed, number, at]))
                for each, more in zip(metrics, differences(sample), strict=True):
                    each.update(more)
        for parts, each in zip(found, metrics, strict=True):
            parts.append(SliceDifferences(part, each))
    return found


def _thirds(numbers: Numbers) -> npt.NDArray[np.int64]:
    """Of each number in which third it is, 0 to 2; -1 where it is none."""
    low, high = np.nanquantile(numbers, [1 / 3, 2 / 3], method="inverted_cdf")
    thirds = (numbers > low).astype(np.int64) + (numbers > high)
    return np.where(np.isnan(numbers), -1, thirds)


def _range(numbers: Numbers) -> list[float] | None:
    return [float(numbers.min()), float(numbers.max())] if len(numbers) else None
