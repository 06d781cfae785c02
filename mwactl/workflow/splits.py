"""A split of a data set of the catalogue, every picture checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mwactl.data import CaptionedImages, Catalogue, scan
from mwactl.progress import Reporter


@dataclass(frozen=True)
class CheckedSplit:
    """Pictures that can all be read.

    Args:
        dataset: Without the pictures that cannot be read.
        digests: SHA-256 of each picture's bytes, in the dataset's order.
        skipped: How many pictures were left out.
    """

    dataset: CaptionedImages
    digests: Sequence[str | None]
    skipped: int = 0


def checked_split(name: str, split: str, *, on_error: Literal["stop", "skip"], reporter: Reporter) -> CheckedSplit:
    """Load a split and open every picture once (quick the second time).

    Raises:
        NotFoundError: No such data set or split.
        DataError: Pictures cannot be read and `on_error` is `stop`.
    """
    dataset = Catalogue.default().get(name).load(split)
    report = scan(dataset, reporter=reporter)
    report.raise_if_any(on_error)
    if not report.problems:
        return CheckedSplit(dataset, report.digests)
    bad = report.bad
    for problem in report.problems:
        reporter.warn(f"skipped {problem.path}: {problem.reason}")
    reporter.warn(f"{len(bad)} of {len(dataset.images)} pictures of {name} {split} are skipped")
    kept = [digest for index, digest in enumerate(report.digests) if index not in bad]
    return CheckedSplit(dataset.without(bad), kept, skipped=len(bad))
