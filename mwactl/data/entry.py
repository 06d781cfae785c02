"""One data set of the catalogue: where it is, and its splits when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mwactl.data.captioned import CaptionedImages, SplitCounts
from mwactl.data.formats import PACKED, READERS, Row
from mwactl.data.formats.coco import coco_files
from mwactl.data.made_split import FORMAT as MADE_SPLIT
from mwactl.data.made_split import read_split_rows
from mwactl.data.picture_file import PictureFile
from mwactl.data.web_picture import WebPicture
from mwactl.errors import NotFoundError, UsageError
from mwactl.files import canonical_json, sha256_bytes, sha256_file
from mwactl.progress import Reporter

_NAMED = 3


@dataclass(frozen=True)
class CatalogueEntry:
    """One data set. Its annotations are read when they are first needed, once."""

    name: str
    """What recipes call it."""

    format: str
    """A key of `READERS`, or `split`: a data set that was divided anew."""

    annotations: Path | None
    """The annotation file, absolute, or the folder or pattern of several; `None`: the format has none."""

    images: Path
    """The folder of the pictures, absolute."""

    source: str | None = None
    """The name of the data set that it was divided from."""

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """For each split its rows.

        Raises:
            NotFoundError: The annotation file is gone.
            DataError: The annotations have mistakes.
        """
        if self.format == MADE_SPLIT and self.annotations:
            return read_split_rows(self.annotations, self.source)
        return READERS[self.format](self.annotations, self.images)

    def load(self, split: str) -> CaptionedImages:
        """Read one split.

        Raises:
            NotFoundError: There is no such split, or the annotation file is gone.
            DataError: The annotations have mistakes.
        """
        if split not in self.rows:
            raise NotFoundError(
                f"the data set '{self.name}' has no split '{split}'",
                where=str(self.annotations or self.images),
                why="its splits are: " + ", ".join(self.rows),
                fix=f"mwactl data show {self.name}",
            )
        return CaptionedImages.from_rows(self.name, split, self.rows[split])

    def splits(self) -> dict[str, SplitCounts]:
        """How large each split is, in the order of the file.

        Raises:
            NotFoundError: The annotation file is gone.
            DataError: The annotations have mistakes.
        """
        return {split: self.load(split).counts() for split in self.rows}

    def annotations_digest(self) -> str | None:
        """The SHA-256 of the annotation file as it is now, of several that of their names and digests.

        `None` where the format has none, or where it is files of many gigabytes that hold the pictures.

        Raises:
            NotFoundError: The annotation file is gone.
        """
        if self.annotations is None or self.format in PACKED:
            return None
        if self.annotations.is_file():
            return sha256_file(self.annotations)
        if self.format == "coco":
            return sha256_bytes(
                canonical_json([[path.name, sha256_file(path)] for path in coco_files(self.annotations)])
            )
        raise NotFoundError("no such annotation file", where=str(self.annotations))

    def web_pictures(self) -> list[WebPicture]:
        """The pictures that the annotations name by an address, each once."""
        images = (row.image for rows in self.rows.values() for row in rows)
        return list(dict.fromkeys(image for image in images if isinstance(image, WebPicture)))

    def refuse_unfetched(self) -> None:
        """Stop where pictures are on the web alone.

        Raises:
            UsageError: There are some that were not fetched.
        """
        unfetched = [picture for picture in self.web_pictures() if not picture.is_file()]
        if unfetched:
            raise UsageError(
                f"{len(unfetched):,} pictures of '{self.name}' are addresses on the web; nothing was fetched",
                where=str(self.annotations or self.images),
                why=f"the first is {unfetched[0]}",
                fix="add --download, which fetches each once into the toolkit's home",
            )

    def check(self, reporter: Reporter) -> None:
        """Read the annotations and look whether the pictures are there, without opening them (`scan` does).

        Args:
            reporter: Hears of pictures that are missing, and of pictures in more than one split.

        Raises:
            NotFoundError: A file or the folder is gone, or not one picture is there.
            DataError: The annotations have mistakes.
        """
        splits_of: dict[PictureFile, set[str]] = {}
        for split, rows in self.rows.items():
            for row in rows:
                splits_of.setdefault(row.image, set()).add(split)
        missing = [path for path in splits_of if not path.is_file()]
        if len(missing) == len(splits_of):
            raise NotFoundError(
                f"not one of the {len(missing):,} pictures is there",
                where=str(self.images),
                why=f"the first should be {missing[0]}",
                fix="check --images: the folder that the picture names in the annotations start from",
            )
        if missing:
            reporter.warn(f"{len(missing):,} of {len(splits_of):,} pictures are missing: {_first(missing)}")
        shared = [path for path, splits in splits_of.items() if len(splits) > 1]
        if shared:
            reporter.warn(f"{len(shared):,} pictures are in more than one split: {_first(shared)}")


def _first(paths: list[PictureFile]) -> str:
    """The first few paths."""
    return ", ".join(str(path) for path in paths[:_NAMED]) + (", …" if len(paths) > _NAMED else "")
