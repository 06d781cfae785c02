"""A contact sheet: pictures of a split with their captions, to see at a glance what a data set is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mwactl.data.captioned import CaptionedImages
from mwactl.data.picture import open_image
from mwactl.errors import DataError

_COLUMNS = 4
_SIDE, _TEXT_HEIGHT, _MARGIN = 240, 132, 12
_FONT_SIZE, _LINE_HEIGHT, _LINES, _LINE_CHARACTERS = 13, 16, 8, 37
_PAPER, _INK, _GREY = "white", "#202020", "#707070"


def chosen(dataset: CaptionedImages, count: int, seed: int) -> list[int]:
    """Some pictures of a split by chance, in its order."""
    total = len(dataset.images)
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


def contact_sheet(dataset: CaptionedImages, pictures: Sequence[int]) -> Image.Image:
    """Draw some pictures (indices) of a split; one that cannot be read is drawn as a crossed frame with the reason."""
    rows = -(-len(pictures) // _COLUMNS)
    width, height = _SIDE + _MARGIN, _SIDE + _TEXT_HEIGHT + _MARGIN
    sheet = Image.new("RGB", (_MARGIN + _COLUMNS * width, _MARGIN + rows * height), _PAPER)
    captions = dataset.captions_of()
    for place, index in enumerate(pictures):
        corner = _MARGIN + place % _COLUMNS * width, _MARGIN + place // _COLUMNS * height
        _draw(sheet, corner, dataset, index, [dataset.captions[caption] for caption in captions[index]])
    return sheet


def _draw(
    sheet: Image.Image, corner: tuple[int, int], dataset: CaptionedImages, index: int, captions: Sequence[str]
) -> None:
    """Draw one picture and what belongs to it below."""
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    try:
        picture = open_image(dataset.images[index])
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        sheet.paste(picture, (x + (_SIDE - picture.width) // 2, y + (_SIDE - picture.height) // 2))
    except DataError as error:
        captions = [error.why or error.what, *captions]
        draw.rectangle((x, y, x + _SIDE, y + _SIDE), outline=_GREY)
        draw.line((x, y, x + _SIDE, y + _SIDE), fill=_GREY)
    title = f"{index}  {dataset.images[index].name}" + (f"  [{dataset.tags[index]}]" if dataset.tags else "")
    lines = [_short(title, _LINE_CHARACTERS)]
    for caption in captions:
        lines += textwrap.wrap(f"· {_short(caption, 400)}", _LINE_CHARACTERS, subsequent_indent="  ")
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], "…"]
    font = ImageFont.load_default(_FONT_SIZE)  # Pillow's own: the same on every machine
    for number, line in enumerate(lines):
        colour = _GREY if number == 0 else _INK
        draw.text((x, y + _SIDE + 4 + number * _LINE_HEIGHT), line, fill=colour, font=font)


def _short(text: str, characters: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= characters else text[: characters - 1] + "…"
