"""Dividing a data set into train, val and test, so that nothing that is seen in training is tested on.

A picture's captions stay together, and so do pictures that are the same, by bytes or by their looks. Which part a
picture falls into depends on the seed and on the bytes alone, not on its name or on the order of the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mwactl.data import CaptionedImages, Catalogue, CatalogueEntry, scan
from mwactl.data.catalogue import check_name
from mwactl.data.hash_cache import hashes_of
from mwactl.data.made_split import (
    FORMAT,
    MadeSplit,
    index_path,
    pooled,
    read_made_split,
    write_made_split,
)
from mwactl.data.perceptual import DISTANCE, near_pairs
from mwactl.errors import DataError, MwactlError, UsageError
from mwactl.files import sha256_bytes
from mwactl.progress import Reporter


@dataclass(frozen=True)
class SplitOptions:
    """How to divide."""

    val: float = 0.1
    """The share of the pictures to choose a model by."""

    test: float = 0.1
    """The share of the pictures to report numbers of."""

    seed: int = 0
    """Another one, another division."""

    distance: int = DISTANCE
    """Bits of 64 by which the perceptual hashes of pictures that look the same may differ."""

    def __post_init__(self) -> None:
        """Check the shares.

        Raises:
            UsageError: They leave nothing to train on, or nothing to divide.
        """
        if min(self.val, self.test) < 0 or not 0 < self.val + self.test < 1:
            raise UsageError(
                f"--val {self.val:g} and --test {self.test:g} do not divide anything",
                why="they are shares of the pictures, from 0 to 1, and what they leave is to train on",
                fix="--val 0.1 --test 0.1",
            )


@dataclass(frozen=True)
class Division:
    """What a division made."""

    entry: CatalogueEntry
    """The data set of the new splits; in a dry run it is not in the catalogue."""

    splits: Mapping[str, tuple[int, int]]
    """For each split its pictures and captions."""

    kept_together: int
    """Pictures that are the same as another, or look so, and are in its split."""


def split_data(
    name: str, options: SplitOptions, *, new_name: str | None, replace: bool, dry_run: bool, reporter: Reporter
) -> Division:
    """Divide a data set anew and remember the result as another one.

    Args:
        name: Of the catalogue; all its pictures are divided, whatever splits it has. A divided one: its source is.
        options: How.
        new_name: What recipes call the result. Unset: the name with `-split`.
        replace: Let the new name stand for this from now on.
        dry_run: Do all but the writing.
        reporter: Hears of the progress, and of pictures that cannot be read.

    Raises:
        NotFoundError: No such data set, or its annotations are gone.
        UsageError: The new name stands for something else.
        DataError: The annotations have mistakes, there are too few pictures, or none can be read.
        ResourceError: The disk is full, or another process holds the catalogue.
    """
    catalogue = Catalogue.default()
    source = _source_of(catalogue.get(name))
    new_name = new_name or f"{name.removesuffix('-split')}-split"
    check_name(new_name)
    if new_name == source.name and any(e.name == new_name and e.format != FORMAT for e in catalogue.entries()):
        raise UsageError(
            f"'{new_name}' is what is divided", why="its name would stand for the division alone",
            fix=f"choose another name: --as {new_name}-split",
        )  # fmt: skip
    entry = CatalogueEntry(new_name, FORMAT, index_path(new_name), source.images, source.name)
    dataset = CaptionedImages.from_rows(source.name, "all", pooled(source.rows))
    groups, keys = _groups(dataset, options, reporter)
    part_of = _parts(groups, keys, options)
    names = ["train", *(["val"] if options.val else []), *(["test"] if options.test else [])]
    splits: dict[str, list[str]] = {part: [] for part in names}
    for image, part in zip(dataset.images, part_of, strict=True):
        splits[part].append(str(image))
    if not all(splits.values()):
        raise DataError(
            f"'{name}' has too few pictures to be divided like this",
            why=f"{len(dataset.images):,} pictures, {len(set(groups)):,} of them different",
            fix="give larger shares, or leave one out: --val 0",
        )
    made = MadeSplit(
        source.name, source.format, source.annotations, source.images,
        {"val": options.val, "test": options.test, "seed": options.seed, "distance": options.distance}, splits,
    )  # fmt: skip
    _refuse_other(catalogue, entry, made, replace)
    if not dry_run:
        write_made_split(index_path(new_name), made)
        catalogue.put(entry, replace=replace)
    return Division(entry, _counted(dataset, part_of, names), len(groups) - len(set(groups)))


def _source_of(entry: CatalogueEntry) -> CatalogueEntry:
    """The data set itself, or that which it was made of."""
    if entry.format != FORMAT or entry.annotations is None:
        return entry
    made = read_made_split(entry.annotations, entry.source)
    return CatalogueEntry(made.source, made.format, made.annotations, made.images)


def _groups(dataset: CaptionedImages, options: SplitOptions, reporter: Reporter) -> tuple[list[int], list[str]]:
    """For each picture the number of its group, of those that must stay together, and its digest.

    Of a picture that cannot be read the name stands for the digest.
    """
    report = scan(dataset, reporter=reporter)
    if not any(report.digests):
        raise DataError(
            f"not one of the {len(dataset.images):,} pictures of '{dataset.name}' can be read",
            why=f"{report.problems[0].path}: {report.problems[0].reason}",
            fix=f"mwactl data check {dataset.name}",
        )
    if report.problems:
        reporter.warn(f"{len(report.problems):,} pictures cannot be read, and are divided by their names")
    hashes, has_one = hashes_of(dataset.name, dataset.images, report.digests, reporter)
    keys = [digest or image.name for image, digest in zip(dataset.images, report.digests, strict=True)]
    hashed = np.unique(np.array(keys), return_index=True)[1]  # of each picture once: copies are together anyway
    hashed = hashed[has_one[hashed]]
    near = [(hashed[one], hashed[other]) for one, other, _ in near_pairs(hashes[hashed], options.distance)]
    first: dict[str, int] = {}
    same = [(first.setdefault(key, index), index) for index, key in enumerate(keys)]
    edges = np.array(same + near, dtype=np.int64)  # [e, 2]
    count = len(keys)
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist(), keys


def _parts(groups: Sequence[int], keys: Sequence[str], options: SplitOptions) -> list[str]:
    """The split of each picture: groups by the hash of the seed and their least key; test, val, the rest is train."""
    members: dict[int, list[str]] = {}
    for group, key in zip(groups, keys, strict=True):
        members.setdefault(group, []).append(key)
    order = sorted(members, key=lambda group: sha256_bytes(f"{options.seed}:{min(members[group])}".encode()))
    left = {"test": round(options.test * len(keys)), "val": round(options.val * len(keys))}
    part: dict[int, str] = {}
    for group in order:
        size = len(members[group])
        part[group] = next((name for name, room in left.items() if size <= room), "train")
        if part[group] in left:
            left[part[group]] -= size
    return [part[group] for group in groups]


def _refuse_other(catalogue: Catalogue, entry: CatalogueEntry, made: MadeSplit, replace: bool) -> None:
    """A name stands for one division."""
    if replace or entry.name not in {known.name for known in catalogue.entries()}:
        return
    known = catalogue.get(entry.name)
    try:
        same = known == entry and read_made_split(index_path(entry.name)) == made
    except MwactlError:
        same = False
    if not same:
        raise UsageError(
            f"there is another data set '{entry.name}'",
            where=str(catalogue.path),
            why="it was divided otherwise, or is no division of this",
            fix="add --replace, or choose another name with --as",
        )


def _counted(dataset: CaptionedImages, part_of: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Pictures and captions of each split."""
    captions = np.bincount(dataset.pairs[:, 0], minlength=len(dataset.images))
    own = np.array(part_of)
    return {name: (int((own == name).sum()), int(captions[own == name].sum())) for name in names}
