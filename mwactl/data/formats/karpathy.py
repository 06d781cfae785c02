"""Karpathy's JSON (`dataset_coco.json`, `dataset_flickr30k.json`, `dataset_flickr8k.json`).

    {"images": [{"filename": …, "filepath": …, "split": …, "sentences": [{"raw": …, "sentid": …}]}]}

`filepath` (COCO) is the folder of `filename`; `restval` is part of the training split; other keys are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mwactl.data.formats.json_file import read_json
from mwactl.data.formats.rows import Row, RowCollector
from mwactl.data.formats.text import annotation_file
from mwactl.errors import DataError

_SPLITS = {"restval": "train"}


def read_karpathy(annotations: Path | None, images: Path) -> dict[str, list[Row]]:
    """Read all splits of a Karpathy JSON file (see `Reader`)."""
    path = annotation_file(annotations, "karpathy")
    collector = RowCollector(path, images, absolute=False)
    for index, image in enumerate(_images(path)):
        where = f"{path.name}: images[{index}]"
        mistake = _mistake(image)
        if mistake:
            collector.problem(where, mistake)
            continue
        split = _SPLITS.get(image["split"], image["split"])
        name = f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"]
        for number, sentence in enumerate(image["sentences"]):
            collector.add(
                f"{where}.sentences[{number}] ({image['filename']})",
                split=split,
                image=name,
                caption=sentence["raw"],
                # Two annotators may have written the same words: only the sentence's number tells a repeated row.
                sentence=sentence["sentid"] if isinstance(sentence.get("sentid"), int) else (index, number),
            )
    return collector.rows()


def _images(path: Path) -> list[Any]:
    """The list of pictures in the file."""
    document = read_json(path)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise DataError(
            "this is JSON, but not Karpathy's",
            where=str(path),
            why="it has no list 'images' at the top",
            fix="give the dataset_….json file of the Karpathy splits, or another --format",
        )
    return images


def _mistake(image: Any) -> str | None:
    """Why an entry of `images` cannot be used, if so."""
    if not isinstance(image, dict):
        return "not an object"
    for key in ("filename", "split"):
        if not isinstance(image.get(key), str):
            return f"'{key}' is missing or not a string"
    if not isinstance(image.get("filepath", ""), str):
        return "'filepath' is not a string"
    return _sentences_mistake(image.get("sentences"), image["filename"])


def _sentences_mistake(sentences: Any, filename: str) -> str | None:
    """Why a picture's sentences cannot be used, if so."""
    if not isinstance(sentences, list):
        return f"'sentences' is missing or not a list ({filename})"
    if not sentences:
        return f"picture without caption ({filename})"
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
            return f"sentences[{number}] has no string 'raw' ({filename})"
    return None
