"""A few of the packaged drawings with a caption each, in memory: something real to compare two models on, anywhere."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from importlib.resources import files

_SET = "noto.zip"


@dataclass(frozen=True)
class Sample:
    """A drawing and what it shows.

    Args:
        name: The file's name.
        picture: The bytes of a JPEG.
        caption: One of its captions.
    """

    name: str
    picture: bytes
    caption: str


def samples(count: int) -> list[Sample]:
    """Drawings from all over the set, the same ones every time; their captions have all lengths.

    Raises:
        ValueError: There are not so many.
    """
    with files(__package__).joinpath(_SET).open("rb") as file, zipfile.ZipFile(file) as archive:
        images = json.loads(archive.read("captions.json"))["images"]
        if not 0 < count <= len(images):
            raise ValueError(f"between 1 and {len(images)} drawings can be had, not {count}")
        chosen = images[:: len(images) // count][:count]
        return [
            Sample(
                name=image["filename"],
                picture=archive.read(f"images/{image['filename']}"),
                caption=image["sentences"][number % len(image["sentences"])]["raw"],
            )
            for number, image in enumerate(chosen)
        ]
