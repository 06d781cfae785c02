"""Resizing and cutting, apart from the rest of a picture transform: the part whose result is worth keeping.

A geometry makes a picture of a picture and is the same every time. What comes after it (random crops, mirroring, the
tensor, its normalisation) is computed anew each time a picture is shown.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from mwactl.errors import IncompatibleError
from mwactl.files import canonical_json, sha256_bytes

_SCHEMA = 1  # to be raised when `open_image` gives other pixels for the same file
_PROBES = ((480, 640), (640, 480), (97, 61), (256, 256), (333, 1000))  # [h, w]: both ways, small, even, long
_NARROWEST = 3 / 4  # the aspect ratio of random resized crops lies between this and its inverse
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Steps:
    """Functions, one after another: what `Compose` of torchvision is, without torchvision."""

    functions: tuple[Callable[[Any], Any], ...]

    def __call__(self, value: Any) -> Any:
        """The last one's result."""
        for function in self.functions:
            value = function(value)
        return value

    def __repr__(self) -> str:
        return "; ".join(_ADDRESS.sub("", repr(function)) for function in self.functions)


@dataclass(frozen=True)
class Geometry:
    """An RGB picture -> an RGB picture, without chance.

    Args:
        compute: The function.
        description: What it does, for people.
    """

    compute: Callable[[Image.Image], Image.Image]
    description: str

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture, resized and cut."""
        return self.compute(picture)

    @cached_property
    def digest(self) -> str:
        """Equal digests, equal pixels: what it is called, what it makes of some noise, and which decoder reads files.

        Names alone do not say enough: a step's `repr` may leave an option out.
        """
        made = [_facts(self(probe)) for probe in _probes()]
        reader = [_SCHEMA, PIL.__version__, features.version("jpg")]
        return sha256_bytes(canonical_json([reader, self.description, made]))


def split_transform(transform: Callable[[Image.Image], Any]) -> tuple[Geometry, Steps]:
    """Cut a transform in two, so that `rest(geometry(picture))` is `transform(picture)` to the bit.

    The geometry is every step before the first that gives something else than a picture (a tensor). For this the
    transform must list its steps in order, as torchvision's `Compose` does (`.transforms`).

    Raises:
        IncompatibleError: It lists no steps, the first of them gives no picture, or one of them draws random numbers.
    """
    steps = tuple(getattr(transform, "transforms", ()))
    with _generators_restored() as state:
        before = state()
        count = _leading_picture_steps(steps)
        geometry = Steps(steps[:count])
        kept = [geometry(probe) for probe in _probes()]
        if state() != before:
            raise _inseparable("it draws random numbers before the picture is a tensor")
    if any(picture.mode != "RGB" for picture in kept):
        raise _inseparable("its pictures are not RGB")
    return Geometry(geometry, repr(geometry)), Steps(steps[count:])


def _leading_picture_steps(steps: tuple[Callable[[Any], Any], ...]) -> int:
    """How many steps come before the first that gives no picture."""
    value: Any = next(_probes())
    for count, step in enumerate(steps):
        value = step(value)
        if not isinstance(value, Image.Image):
            if count == 0:
                raise _inseparable("its first step gives no picture")
            return count
    raise _inseparable("none of its steps gives a tensor" if steps else "its steps cannot be told apart")


def for_random_crops(image_size: tuple[int, int], crop_min_scale: float) -> Geometry:
    """The geometry from which random resized crops lose little: the shortest side reduced, the aspect kept.

    A crop keeps at least the share m = `crop_min_scale` of the area, with an aspect between 3:4 and 4:3; its shorter
    side is then at least sqrt(3/4 · m) of the picture's shortest. The shortest side is kept so long that even this
    crop is not enlarged to the model's size S: S / sqrt(3/4 · m), 310 pixels for 224 and 0.7. Pictures that are
    smaller stay as they are. What is lost is one more interpolation, at most 1.4-fold for 0.7.

    Args:
        image_size: The model's, (h, w).
        crop_min_scale: m.
    """
    side = math.ceil(max(image_size) / math.sqrt(_NARROWEST * crop_min_scale))
    return Geometry(Shrink(side), f"shortest side at most {side}, bicubic")


@dataclass(frozen=True)
class Shrink:
    """Resize a picture until its shortest side is `side`, if it is longer; never enlarge it."""

    side: int

    def __call__(self, picture: Image.Image) -> Image.Image:
        """[h, w] -> [side, w · side / h], or the other way round. (Pillow's bicubic is antialiased.)"""
        shortest = min(picture.size)
        if shortest <= self.side:
            return picture
        width, height = (max(self.side, round(length * self.side / shortest)) for length in picture.size)
        return picture.resize((width, height), Image.Resampling.BICUBIC)


def _probes() -> Iterator[Image.Image]:
    """Noise of several shapes, the same everywhere."""
    rng = np.random.default_rng(0)
    for height, width in _PROBES:
        yield Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def _facts(picture: Image.Image) -> list[Any]:
    return [picture.mode, *picture.size, sha256_bytes(picture.tobytes())]


@contextmanager
def _generators_restored() -> Iterator[Callable[[], Any]]:
    """Gives a function that returns the state of the global generators; puts them back at the end."""
    import torch  # in here: the data room's other files need none

    def state() -> Any:
        kind, keys, *rest = np.random.get_state()
        return random.getstate(), torch.get_rng_state().tolist(), kind, np.asarray(keys).tolist(), rest

    kept = random.getstate(), torch.get_rng_state(), np.random.get_state()
    try:
        yield state
    finally:
        random.setstate(kept[0])
        torch.set_rng_state(kept[1])
        np.random.set_state(kept[2])


def _inseparable(why: str) -> IncompatibleError:
    return IncompatibleError(
        "the pictures of this backbone cannot be cached",
        why=f"its evaluation transform cannot be cut into a geometry and the rest: {why}",
        fix="data.cache=off, or let its plugin's `image_transform` return torchvision's Compose, pictures first",
    )
