"""What earlier scans found: one file a split; it can be deleted at any time and is made again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import PIL

from mwactl.data.picture_file import PictureFile, Stat
from mwactl.files import atomic_write, canonical_json, sha256_bytes
from mwactl.home import cache_path
from mwactl.progress import Reporter
from mwactl.runtime import bundle

_SCHEMA = 1


class Checked(NamedTuple):
    """What is known of one picture's file."""

    size: int | None
    """Bytes; `None`: the file could not be read, which is not remembered."""

    mtime_ns: int | None
    """When it was last changed."""

    digest: str | None
    """SHA-256 of the file; `None`: the picture cannot be used."""

    reason: str | None
    """Why it cannot be used."""


class ScanCache:
    """The remembered findings of one split. Findings of another Pillow or another pixel limit do not count.

    Args:
        name: The data set.
        split: The split.
        reporter: Hears of a cache file that is damaged (it is made anew).
    """

    def __init__(self, name: str, split: str, reporter: Reporter) -> None:
        identity = sha256_bytes(canonical_json([name, split]))
        self.path = cache_path() / "scans" / f"{identity[:32]}.json"
        self._known = self._load(reporter)

    def get(self, path: PictureFile, stat: Stat) -> Checked | None:
        """What is known of a picture, if its file is still as it was."""
        known = self._known.get(str(path))
        unchanged = known and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        return known if unchanged else None

    def save(self, images: Sequence[PictureFile], checked: Sequence[Checked]) -> None:
        """Remember findings beside those of before.

        Raises:
            ResourceError: The disk is full.
        """
        found = {str(path): result for path, result in zip(images, checked, strict=True) if result.size is not None}
        if found.items() <= self._known.items():
            return
        self._known |= found
        document = {"schema": _SCHEMA, "reader": _reader(), "pictures": self._known}
        # ASCII with escapes: file names need not be valid Unicode.
        atomic_write(self.path, json.dumps(document, separators=(",", ":")).encode("ascii"))

    def _load(self, reporter: Reporter) -> dict[str, Checked]:
        """The findings in the file; none if there is no file, or it is damaged, or was made by another reader."""
        try:
            document = json.loads(self.path.read_bytes())
            if document["schema"] != _SCHEMA or document["reader"] != _reader():
                return {}
            return {path: _checked(entry) for path, entry in document["pictures"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reporter.warn(f"the scan cache {self.path} is damaged ({error}); every picture is checked again")
            return {}


def _reader() -> list[Any]:
    """What the findings depend on beside the file."""
    return [PIL.__version__, bundle.MAX_PIXELS]


def _checked(entry: Any) -> Checked:
    """An entry of the file, if it is one."""
    size, mtime_ns, digest, reason = entry
    usable = isinstance(digest, str) and len(digest) == 64 and reason is None
    if not (
        isinstance(size, int) and isinstance(mtime_ns, int) and (usable or (digest is None and isinstance(reason, str)))
    ):
        raise ValueError("an entry is malformed")
    return Checked(size, mtime_ns, digest, reason)
