"""Looking a data set over before it is trained on or reported: what is broken, what is twice, what leaks."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mwactl.data import CaptionedImages, Catalogue, CatalogueEntry, PictureFile, ScanReport, scan
from mwactl.data.hash_cache import hashes_of
from mwactl.data.perceptual import DISTANCE, near_pairs
from mwactl.errors import DataError
from mwactl.progress import Reporter

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    """Which check: a name that stays the same."""

    level: Level
    """`error`: it cannot be used like this, or its numbers mean nothing. `warning`: to be looked at."""

    what: str
    """What is wrong with these places, in words."""

    places: Sequence[str]
    """Where: each picture, caption, or pair."""


@dataclass(frozen=True)
class DataCheck:
    """What all checks found."""

    name: str
    """The data set."""

    splits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """For each split that was checked its pictures and captions."""

    findings: Sequence[Finding] = ()
    """What was found, errors first."""

    def failed(self, *, strict: bool) -> bool:
        """Whether there is an error, or, if they count, a warning."""
        return any(strict or finding.level == "error" for finding in self.findings)


def check_data(
    name: str, *, splits: Sequence[str] = (), distance: int = DISTANCE, workers: int | None = None, reporter: Reporter
) -> DataCheck:
    """Look a data set over. Pictures are opened once; what was found of them is remembered.

    Args:
        name: Of the catalogue.
        splits: Some of its splits; none: all.
        distance: Bits of 64 by which the perceptual hashes of pictures that look the same may differ.
        workers: Threads. Unset: one a core, at most 8.
        reporter: Hears of the progress.

    Raises:
        NotFoundError: No such data set, split, or annotation file.
        ResourceError: The disk is full.
    """
    entry = Catalogue.default().get(name)
    try:
        datasets = [entry.load(split) for split in dict.fromkeys(splits or entry.splits())]
    except DataError as error:
        return DataCheck(name, findings=[_unusable(entry, error)])
    reports = [scan(dataset, reporter=reporter, workers=workers) for dataset in datasets]
    findings = [
        _unreadable(reports),
        _captions("empty captions", "error", "captions without a letter, a number or a sign", datasets, _without_words),
        _captions("duplicate captions", "warning", "captions that a picture has twice", datasets, _twice_in_a_picture),
        _captions("shared captions", "warning", "captions of several pictures", datasets, _of_several_pictures),
        *_same_pictures(reports),
        _near_duplicates(name, reports, distance, workers, reporter),
    ]
    found = sorted((finding for finding in findings if finding.places), key=lambda finding: finding.level)
    counts = {dataset.split: (len(dataset.images), len(dataset.captions)) for dataset in datasets}
    return DataCheck(name, counts, found)


def _unusable(entry: CatalogueEntry, error: DataError) -> Finding:
    """The annotations have mistakes: nothing else can be looked at."""
    where = error.where or str(entry.annotations or entry.images)
    return Finding("annotations", "error", error.what, [f"{where}: {error.why}" if error.why else where])


def _unreadable(reports: Sequence[ScanReport]) -> Finding:
    places = [f"{problem.path}: {problem.reason}" for report in reports for problem in report.problems]
    return Finding("unreadable pictures", "error", "pictures that cannot be opened", places)


def _captions(
    check: str,
    level: Level,
    what: str,
    datasets: Sequence[CaptionedImages],
    find: Callable[[CaptionedImages], Iterator[str]],
) -> Finding:
    """Look at the captions of each split by itself."""
    places = [f"{dataset.split}: {place}" for dataset in datasets for place in find(dataset)]
    return Finding(check, level, what, places)


def _without_words(dataset: CaptionedImages) -> Iterator[str]:
    for image, caption in dataset.pairs.tolist():
        text = dataset.captions[caption]
        if not any(unicodedata.category(character)[0] in "LNS" for character in text):
            yield f"{dataset.images[image]}: {text!r}"


def _twice_in_a_picture(dataset: CaptionedImages) -> Iterator[str]:
    for image, captions in zip(dataset.images, dataset.captions_of(), strict=True):
        counts = Counter(_words(dataset.captions[caption]) for caption in captions)
        yield from (f"{image}: {words!r}, {count} times" for words, count in counts.items() if count > 1)


def _of_several_pictures(dataset: CaptionedImages) -> Iterator[str]:
    owners: dict[str, set[int]] = {}
    for image, caption in dataset.pairs.tolist():
        owners.setdefault(_words(dataset.captions[caption]), set()).add(image)
    yield from (f"{words!r}, of {len(images):,} pictures" for words, images in owners.items() if len(images) > 1)


def _words(caption: str) -> str:
    """What makes two captions the same, as in training: neither capitals nor blanks count."""
    return " ".join(caption.casefold().split())


def _same_pictures(reports: Sequence[ScanReport]) -> Iterator[Finding]:
    """Pictures with the same bytes: in two splits, and twice in one."""
    places: dict[str, dict[str, list[PictureFile]]] = {}
    for report in reports:
        for image, digest in zip(report.dataset.images, report.digests, strict=True):
            if digest:
                places.setdefault(digest, {}).setdefault(report.dataset.split, []).append(image)
    across = [
        " = ".join(f"{split}: {images[0]}" for split, images in found.items())
        for found in places.values()
        if len(found) > 1
    ]
    within = [
        f"{split}: {' = '.join(map(str, images))}"
        for found in places.values()
        for split, images in found.items()
        if len(images) > 1
    ]
    yield Finding("pictures in two splits", "error", "pictures that are in more than one split, to the byte", across)
    yield Finding("duplicate pictures", "warning", "pictures that a split has twice, to the byte", within)


def _near_duplicates(
    name: str, reports: Sequence[ScanReport], distance: int, workers: int | None, reporter: Reporter
) -> Finding:
    """Pictures of two splits that look the same and are not the same bytes."""
    images = [image for report in reports for image in report.dataset.images]
    digests = [digest for report in reports for digest in report.digests]
    split_of = [report.dataset.split for report in reports for _ in report.dataset.images]
    places = []
    if len(reports) > 1:
        hashes, has_one = hashes_of(name, images, digests, reporter, workers=workers)
        firsts: dict[tuple[str, str | None], int] = {}  # of a split's copies one is enough: it has them as duplicates
        for index in np.flatnonzero(has_one).tolist():
            firsts.setdefault((split_of[index], digests[index]), index)
        hashed = list(firsts.values())
        for first, second, apart in near_pairs(hashes[hashed], distance):
            one, other = hashed[first], hashed[second]
            if split_of[one] != split_of[other] and digests[one] != digests[other]:
                pair = f"{split_of[one]}: {images[one]} ~ {split_of[other]}: {images[other]}"
                places.append(f"{pair} ({apart} of 64 bits differ)")
    return Finding("near duplicates", "warning", "pictures of two splits that look the same", places)
