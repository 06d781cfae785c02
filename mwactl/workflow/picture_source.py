"""Where a split's pictures come from, their files or the picture cache, and what is left to be done to them.

The option `data.cache` decides. What the cache keeps is exact wherever a picture is shown as an evaluation shows it
(`augment: none` or `flip`, validation, `mwactl eval`): the model gets the same bits. For random crops it keeps pictures
that were made smaller first, which is an approximation; it is taken only where a recipe says `cache: on`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mwactl.backbone.contract import Augmentation, Backbone, ImageTransform
from mwactl.config.recipe import DataConfig
from mwactl.data.cache import PictureCache
from mwactl.data.geometry import for_random_crops, split_transform
from mwactl.data.loader import Pictures
from mwactl.errors import IncompatibleError
from mwactl.progress import Reporter
from mwactl.workflow.splits import CheckedSplit

CacheMode = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class PictureSource:
    """What a loader needs to show pictures.

    Args:
        transform: From what `pictures` gives to [3, h, w].
        pictures: An index of the split -> a picture; None: the files as they are.
    """

    transform: ImageTransform
    pictures: Pictures | None = None


def evaluation_source(
    backbone: Backbone, split: CheckedSplit, mode: CacheMode, reporter: Reporter, *, workers: int | None = None
) -> PictureSource:
    """The pictures of a split as an evaluation shows them, with the same pixels in every mode.

    Raises:
        IncompatibleError: The mode is `on`, and the backbone's transform cannot be cut at its geometry.
        ResourceError: The mode is `on`, and there is no space, or no place to write to.
        DataError: The mode is `on`, and a picture can no longer be read.
    """
    whole = backbone.image_transform()
    if mode == "off" or (mode == "auto" and not PictureCache.exists()):
        return PictureSource(whole)
    try:
        geometry, rest = split_transform(whole)
    except IncompatibleError:
        if mode == "on":
            raise
        return PictureSource(whole)
    cache = PictureCache(geometry, reporter=reporter)
    if mode == "on":
        cache.build(split.dataset.name, split.dataset.images, split.digests, workers=workers)
    cached = cache.open(split.dataset.images, split.digests)
    return PictureSource(rest, cached) if cached.count else PictureSource(whole)


def training_source(backbone: Backbone, split: CheckedSplit, data: DataConfig, reporter: Reporter) -> PictureSource:
    """The pictures of a split as a recipe's training shows them. (Mirroring, `augment: flip`, is the loader's.)

    Raises:
        MwactlError: As `evaluation_source`.
    """
    if not random_crops(data):
        return evaluation_source(backbone, split, data.cache, reporter, workers=data.workers)
    augmented = backbone.image_transform(Augmentation(data.crop_min_scale, colour=data.augment == "colour"))
    if not approximates(data):
        return PictureSource(augmented)
    cache = PictureCache(for_random_crops(backbone.image_size, data.crop_min_scale), reporter=reporter)
    cache.build(split.dataset.name, split.dataset.images, split.digests, workers=data.workers)
    return PictureSource(augmented, cache.open(split.dataset.images, split.digests))


def random_crops(data: DataConfig) -> bool:
    """Whether training shows random crops."""
    return data.augment in ("crop", "colour")


def approximates(data: DataConfig) -> bool:
    """Whether the option `data.cache` changes what training shows, and with it the run's result."""
    return data.cache == "on" and random_crops(data)
