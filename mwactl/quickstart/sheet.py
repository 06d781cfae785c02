"""The contact sheet: what a query finds before and after the adaptation, side by side in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mwactl.files import atomic_file

_THUMBNAIL = 72
_CELL = _THUMBNAIL + 10
_MARGIN = 24
_TEXT_WIDTH = 230
_GUTTER = 30
_HEADER = 84
_ROW = _CELL + 12
_LINES = 3
_OWN_COLOUR, _OWN_FRAME = "#0a8f3c", 4
_OTHER_COLOUR, _OTHER_FRAME = "#c9c9c9", 1
_INK, _FAINT, _PAPER, _STRIPE = "#1a1a1a", "#6b6b6b", "#ffffff", "#f4f5f7"
_TITLE_SIZE, _HEADING_SIZE, _TEXT_SIZE = 20, 15, 15


@dataclass(frozen=True)
class SheetRow:
    """One query and what it found."""

    query: str
    """The caption that was searched with."""
    own: tuple[Path, ...]
    """The picture (or pictures) that the caption belongs to."""
    before: tuple[Path, ...]
    """The first hits before the adaptation, best first."""
    after: tuple[Path, ...]
    """The first hits after it, best first."""
    note: str = ""
    """A line under the query."""


@dataclass(frozen=True)
class SheetTitles:
    """The words above the columns."""

    title: str
    """What was adapted to what, in one line."""
    before: str = "before"
    """The heading of the first hits."""
    after: str = "after"
    """The heading of the second hits."""


def most_changed(before: Sequence[int], after: Sequence[int], *, gained: int, lost: int) -> list[int]:
    """The queries whose rank changed most: first those that gained, then those that lost, the largest change first.

    Both kinds are shown, and the sheet's title says so: a sheet of gains alone would flatter the adapter. A change is
    measured as the ratio of the ranks, so 9 → 1 counts more than 109 → 101; ties go to the earlier query.

    Args:
        before: The rank of each query's own picture, counted from 1.
        after: The same with the adapter.
        gained: How many queries with a better rank, where there are as many.
        lost: How many with a worse rank.
    """
    order = sorted(range(len(before)), key=lambda query: (after[query] / before[query], query))
    winners = [query for query in order if after[query] < before[query]][:gained]
    losers = [query for query in reversed(order) if after[query] > before[query]][:lost]
    return winners + losers


def contact_sheet(rows: Sequence[SheetRow], to: Path, titles: SheetTitles) -> None:
    """Draw the rows into the PNG file `to`, which appears complete or not at all.

    A row shows the query and its own picture, then the hits before, then the hits after. The query's own picture has a
    thick green frame wherever it turns up, every other a thin grey one. The same rows always give the same bytes.

    Raises:
        ValueError: There are no rows.
        OSError: A picture cannot be read.
        ResourceError: The disk is full.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    n_before = max(len(row.before) for row in rows)
    n_after = max(len(row.after) for row in rows)
    before_x = _MARGIN + _TEXT_WIDTH + _CELL + _GUTTER
    after_x = before_x + n_before * _CELL + _GUTTER
    width = after_x + n_after * _CELL + _MARGIN
    sheet = Image.new("RGB", (width, _HEADER + len(rows) * _ROW + _MARGIN), _PAPER)
    _draw_header(sheet, titles, before_x, after_x)
    for i, row in enumerate(rows):
        top = _HEADER + i * _ROW
        if i % 2 == 0:
            ImageDraw.Draw(sheet).rectangle((0, top, width, top + _ROW - 1), fill=_STRIPE)
        _draw_query(sheet, row, top)
        picture_y = top + (_ROW - _CELL) // 2
        _draw_pictures(sheet, row.own[:1], row.own, _MARGIN + _TEXT_WIDTH, picture_y)
        _draw_pictures(sheet, row.before, row.own, before_x, picture_y)
        _draw_pictures(sheet, row.after, row.own, after_x, picture_y)
    with atomic_file(to) as file:
        sheet.save(file, format="PNG", optimize=True)


def _draw_header(sheet: Image.Image, titles: SheetTitles, before_x: int, after_x: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 16), titles.title, fill=_INK, font=_font(_TITLE_SIZE))
    headings = [(_MARGIN, "query and its picture"), (before_x, titles.before), (after_x, titles.after)]
    for x, heading in headings:
        draw.text((x, _HEADER - 28), heading, fill=_FAINT, font=_font(_HEADING_SIZE))


def _draw_query(sheet: Image.Image, row: SheetRow, top: int) -> None:
    """Write the query, wrapped, and its note, in the middle of the row's height."""
    font = _font(_TEXT_SIZE)
    lines = [(line, _INK) for line in _wrap(row.query, font, _TEXT_WIDTH - 16)]
    if row.note:
        lines.append((row.note, _FAINT))
    line_height = _TEXT_SIZE + 5
    y = top + (_ROW - line_height * len(lines)) // 2
    for i, (line, colour) in enumerate(lines):
        ImageDraw.Draw(sheet).text((_MARGIN, y + i * line_height), line, fill=colour, font=font)


def _draw_pictures(sheet: Image.Image, pictures: Sequence[Path], own: Sequence[Path], x: int, y: int) -> None:
    """Paste the pictures from (x, y) to the right; the query's own get the green frame."""
    draw = ImageDraw.Draw(sheet)
    for i, path in enumerate(pictures):
        left = x + i * _CELL
        with Image.open(path) as picture:
            thumbnail = _on_square(picture.convert("RGB"))
        sheet.paste(thumbnail, (left + 5, y + 5))
        colour, frame = (_OWN_COLOUR, _OWN_FRAME) if path in own else (_OTHER_COLOUR, _OTHER_FRAME)
        inset = 5 - frame
        box = (left + inset, y + inset, left + _CELL - inset - 1, y + _CELL - inset - 1)
        draw.rectangle(box, outline=colour, width=frame)


def _on_square(picture: Image.Image) -> Image.Image:
    """The picture scaled into a white square, its aspect kept."""
    scale = _THUMBNAIL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    square = Image.new("RGB", (_THUMBNAIL, _THUMBNAIL), "white")
    offset = ((_THUMBNAIL - size[0]) // 2, (_THUMBNAIL - size[1]) // 2)
    square.paste(picture.resize(size, Image.Resampling.LANCZOS), offset)
    return square


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The text in at most three lines of at most `width` pixels; what does not fit ends in "…"."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    kept = lines[:_LINES]
    return [_shorten(line, font, width, cut=i == _LINES - 1 and len(lines) > _LINES) for i, line in enumerate(kept)]


def _shorten(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, *, cut: bool) -> str:
    """The line, ended by "…" if it is too wide or if more text follows that is cut."""
    if not cut and font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same on every machine."""
    return ImageFont.load_default(size)
