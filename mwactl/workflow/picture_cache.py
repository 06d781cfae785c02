"""Making the picture cache beforehand, and deleting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mwactl.backbone import find_spec
from mwactl.data import Catalogue
from mwactl.data.cache import CachePlan, PictureCache, remove_cached
from mwactl.data.geometry import for_random_crops, split_transform
from mwactl.progress import Reporter
from mwactl.workflow.splits import checked_split


@dataclass(frozen=True)
class CachedSplit:
    """What was made of one split, or would be.

    Args:
        split: Its name.
        plan: Its pictures, and what was missing.
        made: How many were made; 0 in a dry run.
    """

    split: str
    plan: CachePlan
    made: int


@dataclass(frozen=True)
class CachedData:
    """What was made of a data set.

    Args:
        folder: Where it is.
        geometry: What was done to its pictures.
        exact: Whether a model gets the same pixels as without a cache.
        splits: The splits that were asked for.
    """

    folder: Path
    geometry: str
    exact: bool
    splits: Sequence[CachedSplit]


def cache_pictures(
    name: str,
    backbone: str,
    *,
    reporter: Reporter,
    splits: Sequence[str] = (),
    crop_min_scale: float | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
    dry_run: bool = False,
) -> CachedData:
    """Make the cache that a recipe with `data.cache: on` would make for this data set and backbone.

    Args:
        name: Of the catalogue.
        backbone: Its name; its weights are not read.
        reporter: Who is told.
        splits: Some of the data set; none: all of them.
        crop_min_scale: For random crops that keep this share of the area (`augment: crop` or `colour`); None: as an
            evaluation shows the pictures.
        on_error: What to do about pictures that cannot be read.
        workers: Threads; None: one a core, at most 8.
        dry_run: Only look.

    Raises:
        NotFoundError: No such data set, split or backbone.
        IncompatibleError: The backbone's transform cannot be cut at its geometry.
        DataError: Pictures cannot be read, and `on_error` is `stop`.
        ResourceError: There is no space, or no place to write to.
    """
    entry = Catalogue.default().get(name)
    plugin, spec = find_spec(backbone)
    model = plugin.build_without_weights(spec)
    exact = crop_min_scale is None
    geometry = (
        split_transform(model.image_transform())[0]
        if crop_min_scale is None
        else for_random_crops(model.image_size, crop_min_scale)
    )
    cache = PictureCache(geometry, reporter=reporter)
    done = []
    for split in splits or list(entry.splits()):
        checked = checked_split(name, split, on_error=on_error, reporter=reporter)
        images, digests = checked.dataset.images, checked.digests
        plan = cache.plan(images, digests)
        made = 0 if dry_run else cache.build(name, images, digests, workers=workers)
        done.append(CachedSplit(split, plan, made))
    return CachedData(cache.folder, geometry.description, exact, done)


def forget_pictures(name: str, *, reporter: Reporter) -> int:
    """Delete what the cache keeps for a data set; gives the bytes that are free now.

    A data set that is no longer in the catalogue may be named as well.

    Raises:
        NotFoundError: There is neither a data set nor a cached picture of this name.
        ResourceError: The files cannot be deleted.
    """
    freed = remove_cached(name, reporter=reporter)
    if freed == 0:
        Catalogue.default().get(name)
    return freed
