"""The contact sheet of a search: a row a query, its hits from left to right, in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mwactl.errors import UsageError
from mwactl.files import atomic_file
from mwactl.search.found import Found, Result
from mwactl.search.thumbnail import thumbnail

_SIDE, _PAD, _MARGIN, _CAPTION, _HEADING = 144, 8, 20, 22, 34
_CELL = _SIDE + 2 * _PAD
_INK, _FAINT, _PAPER, _MISSING = "#1a1a1a", "#6b6b6b", "#ffffff", "#e4e4e4"
_COLUMNS = 10
_MOST_PIXELS = 100_000_000


def contact_sheet(found: Sequence[Found], to: Path) -> int:
    """Draw what queries found into the PNG file `to`, which appears complete or not at all.

    The same hits always give the same bytes. A picture that is not there any more is a grey square.

    Returns:
        How many pictures were not there.

    Raises:
        UsageError: There are too many for one picture.
        ResourceError: The disk is full.
    """
    columns = max(1, min(_COLUMNS, max(len(one.results) for one in found)))
    heights = [_HEADING + -(-max(1, len(one.results)) // columns) * (_CELL + _CAPTION) for one in found]
    width, height = 2 * _MARGIN + max(3, columns) * _CELL, 2 * _MARGIN + sum(heights)
    if width * height > _MOST_PIXELS:
        raise UsageError(
            f"{len(found):,} queries are too many for one contact sheet", why=f"it would be {width} × {height} pixels",
            fix="give fewer queries or a smaller -k, or use --html",
        )  # fmt: skip
    sheet = Image.new("RGB", (width, height), _PAPER)
    missing, top = 0, _MARGIN
    for one, one_height in zip(found, heights, strict=True):
        _write(sheet, one.query, _MARGIN, top, width - 2 * _MARGIN, size=17, colour=_INK)
        for i, result in enumerate(one.results):
            x = _MARGIN + i % columns * _CELL
            y = top + _HEADING + i // columns * (_CELL + _CAPTION)
            missing += not _draw(sheet, result, x, y)
        top += one_height
    with atomic_file(to) as file:
        sheet.save(file, format="PNG", optimize=True)
    return missing


def _draw(sheet: Image.Image, result: Result, x: int, y: int) -> bool:
    """One hit: its picture on a square, its rank and score below; whether the picture was there."""
    picture = thumbnail(result.item, _SIDE)
    if picture is None:
        ImageDraw.Draw(sheet).rectangle((x + _PAD, y + _PAD, x + _PAD + _SIDE, y + _PAD + _SIDE), fill=_MISSING)
    else:
        sheet.paste(picture, (x + (_CELL - picture.width) // 2, y + (_CELL - picture.height) // 2))
    label = f"{result.rank}   {result.score:.3f}   {result.item.id}"
    _write(sheet, label, x + _PAD, y + _CELL, _SIDE, size=12, colour=_FAINT)
    return picture is not None


def _write(sheet: Image.Image, text: str, x: int, y: int, width: int, *, size: int, colour: str) -> None:
    """A line of text in Pillow's own font, which is the same on every machine, cut to a width."""
    font = ImageFont.load_default(size)
    line = " ".join(text.split())
    whole = line
    while line and font.getlength(line if line == whole else f"{line}…") > width:
        line = line[:-1]
    ImageDraw.Draw(sheet).text((x, y), line if line == whole else f"{line}…", fill=colour, font=font)
