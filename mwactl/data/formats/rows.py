"""What every reader makes: rows of (picture, caption) for each split, with all mistakes told at once."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple, Protocol

from mwactl.errors import DataError

WHOLE = "all"
"""The split of a data set that has none."""

_PROBLEMS_SHOWN = 5


class Row(NamedTuple):
    """One caption of one picture."""

    image: Path
    """Absolute path."""

    caption: str
    """As it was written; not empty."""


class Reader(Protocol):
    """Reads one annotation format."""

    def __call__(self, annotations: Path | None, images: Path) -> dict[str, list[Row]]:
        """Read all splits.

        Args:
            annotations: The annotation file; `None` for a format that has none.
            images: The folder that relative picture paths start from.

        Returns:
            For each split its rows, in file order.

        Raises:
            DataError: The file cannot be understood, or rows cannot be used.
            NotFoundError: A file or folder is not there.
            UsageError: The format needs an annotation file, or has none.
        """


class RowCollector:
    """Takes rows from a reader, checks each, and tells all mistakes in one error.

    Args:
        source: The annotation file (or folder), for error messages.
        images: The folder that relative picture paths start from.
        absolute: Whether the format may name pictures by absolute paths.
    """

    def __init__(self, source: Path, images: Path, *, absolute: bool) -> None:
        self._source = source
        self._images = images.resolve()
        self._absolute = absolute
        self._paths: dict[str, Path] = {}
        self._seen: set[tuple[str, Path, str, Hashable]] = set()
        self._splits: dict[str, list[Row]] = {}
        self._problems: list[str] = []

    def add(self, where: str, *, split: str, image: str, caption: str, sentence: Hashable = None) -> None:
        """Take one row; the very same row of before is passed over.

        Args:
            where: The row's place, e.g. `captions.csv:12`.
            split: The split's name.
            image: The picture's path as written.
            caption: The caption as written.
            sentence: What tells two sentences with the same words apart, where the format has that.
        """
        path = self._path(where, image)
        if not caption.strip():
            self.problem(where, "empty caption")
        elif not split.strip():
            self.problem(where, "empty split")
        elif not _is_unicode(caption):
            self.problem(where, "the caption has half a character (a lone surrogate)")
        elif path is not None and (row := (split, path, caption, sentence)) not in self._seen:
            self._seen.add(row)
            self._splits.setdefault(split, []).append(Row(path, caption))

    def problem(self, where: str, reason: str) -> None:
        """Note a mistake; `rows` raises it together with the others."""
        self._problems.append(f"{where}: {reason}")

    def rows(self) -> dict[str, list[Row]]:
        """The rows of each split, in the order they came.

        Raises:
            DataError: There were mistakes (the first five are named, all are counted), or there is no row.
        """
        if self._problems:
            count = len(self._problems)
            more = f"; and {count - _PROBLEMS_SHOWN:,} more" if count > _PROBLEMS_SHOWN else ""
            raise DataError(
                f"{count:,} mistake{'s' * (count > 1)} in the annotations",
                where=str(self._source),
                why="; ".join(self._problems[:_PROBLEMS_SHOWN]) + more,
                fix="correct or remove these rows and run the command again",
            )
        if not self._splits:
            raise DataError(
                "there is no captioned picture in it",
                where=str(self._source),
                why="the annotations were read to the end without finding a row",
                fix="check that --annotations and --format belong together",
            )
        return self._splits

    def _path(self, where: str, image: str) -> Path | None:
        """The picture's absolute path; `None` after noting a mistake."""
        if image in self._paths:
            return self._paths[image]
        path = Path(os.path.normpath(self._images / image))
        if not image.strip():
            mistake = "the picture's name is empty"
        elif "\0" in image or not _is_unicode(image):
            mistake = "the picture's name has a character that no file name can have"
        elif Path(image).is_absolute() and not self._absolute:
            mistake = f"absolute path '{image}' (this format's paths are relative to the picture folder)"
        elif not Path(image).is_absolute() and self._images not in path.parents:
            mistake = f"'{image}' is not inside the picture folder"
        else:
            return self._paths.setdefault(image, path)
        self.problem(where, mistake)
        return None


def _is_unicode(text: str) -> bool:
    """Whether the text can be written down in UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
