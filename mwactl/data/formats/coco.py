"""COCO captions as they are published (`annotations/captions_train2017.json`, `captions_val2017.json`).

    {"images": [{"id": …, "file_name": …}], "annotations": [{"image_id": …, "id": …, "caption": …}]}

A file is a split, told by its name; several are given as a folder or a pattern. `train2017/` beside `val2017/` in the
picture folder belongs to `captions_train2017.json`. The order is that of `images`, a picture's captions that of
`annotations`. Pictures without a caption (a test set's) are mistakes; other keys, but a picture's `tag`, are ignored.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mwactl.data.formats.json_file import read_json
from mwactl.data.formats.rows import WHOLE, Row, RowCollector
from mwactl.data.formats.shards import SPLIT_NAMES, shards_of
from mwactl.data.formats.text import annotation_file
from mwactl.errors import DataError

_WORDS = re.compile(r"[a-z]+")
_CAPTIONS = "captions_"


def read_coco(annotations: Path | None, images: Path) -> dict[str, list[Row]]:
    """Read all splits of one or more COCO caption files (see `Reader`)."""
    source = annotation_file(annotations, "coco")
    files = coco_files(source)
    collector = RowCollector(source, images, absolute=False)
    split_names = {path: split_of(path) for path in files}
    unnamed = [path for path, split in split_names.items() if split == WHOLE]
    for path in unnamed if len(unnamed) < len(files) else []:
        collector.problem(path.name, "the file's name does not say which split it is of")
    for path in files:
        document = read_json(path)
        _check_shape(document, path)
        folder = path.stem.removeprefix(_CAPTIONS) if path.stem.startswith(_CAPTIONS) else ""
        inside = f"{folder}/" if folder and (images / folder).is_dir() else ""
        _add_file(collector, path, document, split_names[path], inside)
    return collector.rows()


def coco_files(source: Path) -> list[Path]:
    """The caption files that are meant; of a folder, those called `captions_….json`, for others are about objects."""
    files = shards_of(source, {".json"})
    if not source.is_dir():
        return files
    return [path for path in files if path.name.startswith(_CAPTIONS)] or files


def split_of(path: Path) -> str:
    """`captions_val2017.json` is `val`; a name without such a word is `all`."""
    words = _WORDS.findall(path.stem.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), WHOLE)


def _check_shape(document: Any, path: Path) -> None:
    lists = document if isinstance(document, dict) else {}
    missing = [key for key in ("images", "annotations") if not isinstance(lists.get(key), list)]
    if missing:
        raise DataError(
            "this is JSON, but not COCO's",
            where=str(path),
            why=f"it has no list {' and no list '.join(repr(key) for key in missing)} at the top",
            fix="give captions_….json of COCO, or another --format",
        )


def _add_file(collector: RowCollector, path: Path, document: dict[str, Any], split: str, folder: str) -> None:
    """Take the rows of one file."""
    pictures: dict[int, tuple[str, dict[str, Any]]] = {}
    for index, image in enumerate(document["images"]):
        where = f"{path.name}: images[{index}]"
        mistake = _image_mistake(image)
        if mistake is None and image["id"] in pictures:
            mistake = f"the id {image['id']} is that of {pictures[image['id']][1]['file_name']} too"
        if mistake:
            collector.problem(where, mistake)
        else:
            pictures[image["id"]] = (where, image)
    captions = _captions(collector, path, document["annotations"], pictures)
    for number, (where, image) in pictures.items():
        if number not in captions:
            collector.problem(where, f"picture without caption ({image['file_name']})")
        for place, sentence, caption in captions.get(number, []):
            collector.add(
                place,
                split=split,
                image=folder + image["file_name"],
                caption=caption,
                sentence=sentence,
                tag=image.get("tag") or "",
            )


def _captions(
    collector: RowCollector, path: Path, annotations: list[Any], pictures: dict[int, Any]
) -> dict[int, list[tuple[str, int, str]]]:
    """For each picture's id: where its captions are, what tells them apart, and what they say."""
    found: dict[int, list[tuple[str, int, str]]] = {}
    for index, annotation in enumerate(annotations):
        where = f"{path.name}: annotations[{index}]"
        fields = annotation if isinstance(annotation, dict) else {}
        number, caption, own = fields.get("image_id"), fields.get("caption"), fields.get("id")
        if not _is_id(number) or not isinstance(caption, str):
            collector.problem(where, "it has no whole number 'image_id', or no string 'caption'")
        elif number not in pictures:
            collector.problem(where, f"no picture has the id {number}")
        else:
            sentence = own if isinstance(own, int) else -1 - index
            found.setdefault(number, []).append((where, sentence, caption))
    return found


def _image_mistake(image: Any) -> str | None:
    """Why an entry of `images` cannot be used, if so."""
    if not isinstance(image, dict):
        return "not an object"
    if not _is_id(image.get("id")):
        return "'id' is missing or not a whole number"
    if not isinstance(image.get("file_name"), str):
        return "'file_name' is missing or not a string"
    return None if isinstance(image.get("tag"), str | None) else "'tag' is not a string"


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
