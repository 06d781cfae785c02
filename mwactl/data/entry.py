"""One data set of the catalogue: where it is, and its splits when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mwactl.data.captioned import CaptionedImages, SplitCounts
from mwactl.data.formats import READERS, Row
from mwactl.errors import NotFoundError
from mwactl.files import sha256_file
from mwactl.progress import Reporter

_NAMED = 3


@dataclass(frozen=True)
class CatalogueEntry:
    """One data set. Its annotations are read when they are first needed, once."""

    name: str
    """What recipes call it."""

    format: str
    """A key of `READERS`."""

    annotations: Path | None
    """The annotation file, absolute; `None`: the format has none."""

    images: Path
    """The folder of the pictures, absolute."""

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        return READERS[self.format](self.annotations, self.images)

    def load(self, split: str) -> CaptionedImages:
        """Read one split.

        Raises:
            NotFoundError: There is no such split, or the annotation file is gone.
            DataError: The annotations have mistakes.
        """
        if split not in self._rows:
            raise NotFoundError(
                f"the data set '{self.name}' has no split '{split}'",
                where=str(self.annotations or self.images),
                why="its splits are: " + ", ".join(self._rows),
                fix=f"mwactl data show {self.name}",
            )
        return CaptionedImages.from_rows(self.name, split, self._rows[split])

    def splits(self) -> dict[str, SplitCounts]:
        """How large each split is, in the order of the file.

        Raises:
            NotFoundError: The annotation file is gone.
            DataError: The annotations have mistakes.
        """
        return {split: self.load(split).counts() for split in self._rows}

    def annotations_digest(self) -> str | None:
        """The SHA-256 of the annotation file as it is now; `None` where the format has none.

        Raises:
            NotFoundError: The annotation file is gone.
        """
        if self.annotations is None:
            return None
        if not self.annotations.is_file():
            raise NotFoundError("no such annotation file", where=str(self.annotations))
        return sha256_file(self.annotations)

    def check(self, reporter: Reporter) -> None:
        """Read the annotations and look whether the pictures are there, without opening them (`scan` does).

        Args:
            reporter: Hears of pictures that are missing, and of pictures in more than one split.

        Raises:
            NotFoundError: A file or the folder is gone, or not one picture is there.
            DataError: The annotations have mistakes.
        """
        splits_of: dict[Path, set[str]] = {}
        for split, rows in self._rows.items():
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


def _first(paths: list[Path]) -> str:
    """The first few paths."""
    return ", ".join(str(path) for path in paths[:_NAMED]) + (", …" if len(paths) > _NAMED else "")
