"""At which rank each query of a split found its own: all that intervals and comparisons need, small enough to keep.

Shape notation: n pictures, q caption queries. These are the captions; under a protocol of blocks, a caption whose
pictures are in several blocks is a query in each.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mwactl.errors import VerificationError

Indices: TypeAlias = npt.NDArray[np.int64]

_MOST_BYTES = 2**28  # what a stored list may unpack to: 67 million queries
_LISTS = ("image_to_text", "text_to_image", "texts", "pictures")


@dataclass(frozen=True, eq=False)
class QueryRanks:
    """The ranks of both directions, 1-based, and what each query is.

    Raises:
        ValueError: The fields contradict each other.
    """

    image_to_text: Indices
    """[n] rank of the best own caption of each picture."""
    text_to_image: Indices
    """[q] rank of the best own picture of each caption query."""
    texts: Indices
    """[q] which caption it is."""
    pictures: Indices
    """[q] the picture with which it is resampled: its own; the first of them, where it has several."""
    folds: int = 1
    """In how many blocks of n / folds consecutive pictures the ranks were found; metrics are means over the blocks."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        n, q = len(self.image_to_text), len(self.text_to_image)
        if not n or not q or (len(self.texts), len(self.pictures)) != (q, q):
            raise ValueError("ranks need a list a direction, and of each caption query which caption and picture it is")
        if min(self.image_to_text.min(), self.text_to_image.min()) < 1:
            raise ValueError("a rank is below 1")
        if min(self.texts.min(), self.pictures.min()) < 0 or self.pictures.max() >= n:
            raise ValueError(f"a caption query is of no caption, or of none of the {n} pictures")
        if self.folds < 1 or n % self.folds:
            raise ValueError(f"{n} pictures are not {self.folds} equal blocks")

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a list is the steps from one number to the next as little-endian int32, deflated, in base64."""
        return {"folds": self.folds} | {name: _packed(getattr(self, name)) for name in _LISTS}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str) -> QueryRanks:
        """Read what `as_dict` wrote.

        Raises:
            VerificationError: It is something else.
        """
        try:
            return cls(**{name: _unpacked(document[name]) for name in _LISTS}, folds=int(document["folds"]))
        except (KeyError, TypeError, ValueError, zlib.error, binascii.Error) as error:
            raise VerificationError(
                "stored ranks cannot be read", where=where, why=str(error), fix="evaluate again: mwactl eval"
            ) from error


def _packed(numbers: Indices) -> str:
    steps = np.diff(numbers, prepend=0).astype("<i4")  # of a caption's own picture, nearly all are 0 or 1
    return base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode("ascii")


def _unpacked(text: str) -> Indices:
    opened = zlib.decompressobj()
    data = opened.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    if not opened.eof:
        raise ValueError("a list is incomplete or too long")
    return np.cumsum(np.frombuffer(data, "<i4"), dtype=np.int64)
