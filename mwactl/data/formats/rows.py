"""What every reader makes: rows of (picture, caption) for each split, with all mistakes told at once."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple, Protocol

from mwactl.data.picture_file import PictureFile
from mwactl.data.web_picture import WebPicture
from mwactl.errors import DataError

WHOLE = "all"
"""The split of a data set that has none."""

_PROBLEMS_SHOWN = 5
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Row(NamedTuple):
    """One caption of one picture."""

    image: PictureFile
    """Its absolute path, or what stands for one."""

    caption: str
    """As it was written; not empty."""

    tag: str = ""
    """What the picture belongs to, for figures of parts (`mwactl compare`); empty: nothing was said."""


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
        absolute: Whether the format may name pictures by absolute paths, and by addresses of the web.
    """

    def __init__(self, source: Path, images: Path, *, absolute: bool) -> None:
        self._source = source
        self._images = images.resolve()
        self._absolute = absolute
        self._paths: dict[str, PictureFile] = {}
        self._seen: set[tuple[str, PictureFile, str, Hashable]] = set()
        self._splits: dict[str, list[Row]] = {}
        self._tags: dict[PictureFile, str] = {}
        self._problems: list[str] = []

    def add(
        self,
        where: str,
        *,
        split: str,
        image: str | PictureFile,
        caption: str,
        sentence: Hashable = None,
        tag: str = "",
    ) -> None:
        """Take one row; the very same row of before is passed over.

        Args:
            where: The row's place, e.g. `captions.csv:12`.
            split: The split's name.
            image: The picture's path as written, or a picture that is no file of its own.
            caption: The caption as written.
            sentence: What tells two sentences with the same words apart, where the format has that.
            tag: The picture's tag; one row of a picture may give it for all.
        """
        path = self._path(where, image) if isinstance(image, str) else image
        if path is not None:
            self._tag(where, path, tag)
        if not caption.strip():
            self.problem(where, "empty caption")
        elif not split.strip():
            self.problem(where, "empty split")
        elif not all(map(_is_unicode, (caption, split, tag))):
            self.problem(where, "the caption, split or tag has half a character (a lone surrogate)")
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
        if self._tags:
            for rows in self._splits.values():
                rows[:] = [row._replace(tag=self._tags.get(row.image, "")) for row in rows]
        return self._splits

    def _tag(self, where: str, path: PictureFile, tag: str) -> None:
        """A picture has one tag."""
        if tag and self._tags.setdefault(path, tag) != tag:
            self.problem(where, f"the picture has two tags, '{self._tags[path]}' and '{tag}'")

    def _path(self, where: str, image: str) -> PictureFile | None:
        """The picture's absolute path; `None` after noting a mistake."""
        if image in self._paths:
            return self._paths[image]
        path = Path(os.path.normpath(self._images / image))
        scheme = _SCHEME.match(image)
        if scheme and self._absolute and scheme[1].lower() in ("http", "https") and _is_unicode(image):
            return self._paths.setdefault(image, WebPicture(image))
        if scheme and self._absolute:
            mistake = f"'{image}' is an address of another kind than http and https"
        elif not image.strip():
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
