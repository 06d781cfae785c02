"""A picture that an annotation file names by its address: fetched once, on request alone, and kept in the home."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from mwactl.data.picture_file import Stamp
from mwactl.files import sha256_bytes
from mwactl.home import home


@dataclass(frozen=True)
class WebPicture:
    """A `PictureFile`, which is there once it was fetched (`fetch_pictures`).

    Args:
        url: Of http or https.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the address's path."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @cached_property
    def path(self) -> Path:
        """Where it is kept."""
        digest = sha256_bytes(self.url.encode())
        return home() / "downloads" / digest[:2] / digest

    def is_absolute(self) -> bool:
        """Yes."""
        return True

    def is_file(self) -> bool:
        """Whether it was fetched."""
        return self.path.is_file()

    def stat(self) -> Stamp:
        """Of the fetched file."""
        return Stamp.of(self.path)

    def read_bytes(self) -> bytes:
        """The fetched bytes."""
        return self.path.read_bytes()
