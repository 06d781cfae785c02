"""One split of a data set: pictures, captions, and which belong together.

Nothing here assumes five captions a picture, or that caption `5·i + j` belongs to picture `i`: a few COCO pictures
have six or seven captions, and other data sets anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mwactl.data.formats.rows import Row
from mwactl.data.picture_file import PictureFile
from mwactl.errors import DataError
from mwactl.files import canonical_json, sha256_bytes


@dataclass(frozen=True)
class SplitCounts:
    """How large a split is."""

    images: int
    """Pictures."""

    captions: int
    """Captions."""

    captions_min: int
    """Fewest captions of a picture."""

    captions_mean: float
    """Captions a picture, on average."""

    captions_max: int
    """Most captions of a picture."""


@dataclass(frozen=True, eq=False)
class CaptionedImages:
    """Pictures and captions, many-to-many by index. Nothing in it can be changed.

    Raises:
        ValueError: The fields contradict each other.
    """

    name: str
    """The data set's name."""

    split: str
    """The split's name."""

    images: tuple[PictureFile, ...]
    """Absolute paths, or what stands for them, each once, in the order of the split."""

    captions: tuple[str, ...]
    """Captions as they were written, in order; none is empty. The same text may stand for two pictures."""

    pairs: NDArray[np.int64]
    """`[p, 2]`: (picture index, caption index), sorted by caption index; every picture and caption occurs."""

    tags: tuple[str, ...] = ()
    """One a picture, empty where it has none; no tags at all: `()`. What a result is also given for the parts of."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        pairs = np.array(self.pairs, dtype=np.int64)  # a copy: the caller's array may change later
        pairs.setflags(write=False)
        object.__setattr__(self, "pairs", pairs)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"pairs must have the shape [p, 2], not {list(pairs.shape)}")
        if len(set(self.images)) != len(self.images):
            raise ValueError("a picture occurs twice in images")
        if not all(path.is_absolute() for path in self.images):
            raise ValueError("a picture's path is not absolute")
        if not all(caption.strip() for caption in self.captions):
            raise ValueError("a caption is empty")
        if self.tags and (len(self.tags) != len(self.images) or not any(self.tags)):
            raise ValueError("tags must be one a picture, or () where no picture has one")
        if np.any(np.diff(pairs[:, 1]) < 0):
            raise ValueError("pairs are not sorted by caption index")
        for column, count, thing in ((0, len(self.images), "picture"), (1, len(self.captions), "caption")):
            if not np.array_equal(np.unique(pairs[:, column]), np.arange(count)):
                raise ValueError(f"pairs must mention every {thing} from 0 to {count - 1} and no other")

    @classmethod
    def from_rows(cls, name: str, split: str, rows: Iterable[Row]) -> CaptionedImages:
        """The split that some rows of an annotation file describe; each row is one caption of its own."""
        index_of: dict[PictureFile, int] = {}
        tag_of: dict[PictureFile, str] = {}
        captions, owners = [], []
        for row in rows:
            owners.append(index_of.setdefault(row.image, len(index_of)))
            captions.append(row.caption)
            if row.tag:
                tag_of[row.image] = row.tag
        pairs = np.stack([np.array(owners, dtype=np.int64), np.arange(len(owners), dtype=np.int64)], axis=1)
        tags = tuple(tag_of.get(image, "") for image in index_of) if tag_of else ()
        return cls(name, split, tuple(index_of), tuple(captions), pairs, tags)

    def without(self, bad: Collection[int]) -> CaptionedImages:
        """The split without some pictures (indices) and without the captions that only they had.

        Raises:
            DataError: No picture would remain.
            IndexError: An index is not one of a picture.
        """
        if not bad:
            return self
        if min(bad) < 0 or max(bad) >= len(self.images):
            raise IndexError(f"picture indices go from 0 to {len(self.images) - 1}")
        pairs = self.pairs[~np.isin(self.pairs[:, 0], np.fromiter(bad, dtype=np.int64))]
        if not len(pairs):
            raise DataError(
                f"no picture of the split '{self.split}' of '{self.name}' can be used",
                why=f"all {len(self.images):,} pictures were left out",
                fix="repair the pictures, or check the folder: mwactl data show " + self.name,
            )
        images, image_index = np.unique(pairs[:, 0], return_inverse=True)
        captions, caption_index = np.unique(pairs[:, 1], return_inverse=True)
        tags = tuple(self.tags[i] for i in images) if self.tags else ()
        return CaptionedImages(
            self.name,
            self.split,
            tuple(self.images[i] for i in images),
            tuple(self.captions[i] for i in captions),
            np.stack([image_index, caption_index], axis=1),
            tags if any(tags) else (),
        )

    def captions_of(self) -> list[list[int]]:
        """For each picture, the indices of its captions, ascending."""
        captions: list[list[int]] = [[] for _ in self.images]
        for image, caption in self.pairs.tolist():
            captions[image].append(caption)
        return captions

    def counts(self) -> SplitCounts:
        """How many pictures and captions there are, and how they are spread."""
        per_image = np.bincount(self.pairs[:, 0], minlength=len(self.images))
        return SplitCounts(
            images=len(self.images),
            captions=len(self.captions),
            captions_min=int(per_image.min()),
            captions_mean=float(per_image.mean()),
            captions_max=int(per_image.max()),
        )

    def digest(self, picture_digests: Sequence[str]) -> str:
        """The split's identity: what the pictures and captions are, not where they lie or what they are called here.

        Args:
            picture_digests: The SHA-256 of each picture's file, in order (`ScanReport.digests`).

        Returns:
            SHA-256 over the canonical JSON of file names with picture digests, captions, and pairs, in order.

        Raises:
            ValueError: There is not exactly one digest for each picture.
        """
        if len(picture_digests) != len(self.images) or not all(picture_digests):
            raise ValueError(f"{len(self.images)} pictures need as many digests; leave unreadable pictures out first")
        pictures = [[path.name, digest] for path, digest in zip(self.images, picture_digests, strict=True)]
        content = {"pictures": pictures, "captions": self.captions, "pairs": self.pairs.tolist()}
        return sha256_bytes(canonical_json(content))
