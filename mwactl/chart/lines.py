"""Line charts: panels of curves in two columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from mwactl.chart.style import FAINT, GRID, INK, OTHER, OWN, PAPER, TEXT_SIZE, TITLE_SIZE, font

Point = tuple[float, float]

_FINE = 2  # drawn so many times too large, and reduced: Pillow's lines have no smooth edges of their own
_COLUMNS, _WIDTH, _HEIGHT = 2, 430, 250  # of a panel with all around it
_MARGIN, _HEADER = 24, 48
_LEFT, _TOP, _BOTTOM, _RIGHT = 62, 34, 40, 18  # what a panel keeps around its curves
_SMALL = 12
_MOST_DOTS = 40


@dataclass(frozen=True)
class Line:
    """One curve.

    Args:
        points: x and y, by x; what is not finite is left out.
        label: In the panel's legend; empty: in none.
        own: Of what the chart is about, in the strong colour; else in grey.
    """

    points: Sequence[Point]
    label: str = ""
    own: bool = True


@dataclass(frozen=True)
class Panel:
    """Curves that share two axes; later ones lie above earlier ones.

    Args:
        heading: What y is.
        x_axis: What x is; its ticks are whole numbers.
        lines: The curves.
    """

    heading: str
    x_axis: str
    lines: Sequence[Line]


def draw_panels(title: str, panels: Sequence[Panel]) -> Image.Image:
    """The panels, row by row, under a title."""
    rows = math.ceil(len(panels) / _COLUMNS)
    size = (_COLUMNS * _WIDTH + 2 * _MARGIN, _HEADER + rows * _HEIGHT + _MARGIN // 2)
    picture = Image.new("RGB", (_FINE * size[0], _FINE * size[1]), PAPER)
    draw = ImageDraw.Draw(picture)
    _text(draw, (_MARGIN, 14), title, TITLE_SIZE, INK, "la")
    for number, panel in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        _draw_panel(draw, panel, _MARGIN + column * _WIDTH, _HEADER + row * _HEIGHT)
    return picture.reduce(_FINE)


def _draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, x: int, y: int) -> None:
    left, right = x + _LEFT, x + _WIDTH - _RIGHT
    top, bottom = y + _TOP, y + _HEIGHT - _BOTTOM
    _text(draw, (left, y + 8), panel.heading, TEXT_SIZE, INK, "la")
    lines = [Line([p for p in line.points if all(map(math.isfinite, p))], line.label, line.own) for line in panel.lines]
    points = [point for line in lines for point in line.points]
    if not points:
        _text(draw, ((left + right) // 2, (top + bottom) // 2), "nothing was logged", _SMALL, FAINT, "mm")
        return
    x_low, x_high = _range([p[0] for p in points], margin=0.0)
    y_low, y_high = _range([p[1] for p in points], margin=0.05)

    def across(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (right - left)

    def up(value: float) -> float:
        return bottom - (value - y_low) / (y_high - y_low) * (bottom - top)

    for tick in ticks(y_low, y_high):
        _line(draw, [(left, up(tick)), (right, up(tick))], GRID, 1)
        _text(draw, (left - 6, up(tick)), _number(tick), _SMALL, FAINT, "rm")
    for tick in ticks(x_low, x_high, whole=True):
        _text(draw, (across(tick), bottom + 5), _number(tick), _SMALL, FAINT, "ma")
    _text(draw, (right, bottom + 20), panel.x_axis, _SMALL, FAINT, "ra")
    legend = right
    for line in lines:
        colour = OWN if line.own else OTHER
        placed = [(across(px), up(py)) for px, py in line.points]
        _line(draw, placed, colour, 2 if line.own else 1)
        if len(placed) <= _MOST_DOTS:
            for px, py in placed:
                _dot(draw, px, py, colour)
        if line.label:
            _text(draw, (legend, y + 10), line.label, _SMALL, colour, "ra")
            legend -= round(font(_SMALL).getlength(line.label)) + 12


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Two to six round numbers from `low` to `high`, whose distance is 1, 2 or 5 times a power of ten.

    Args:
        low: Of the axis.
        high: Above `low`.
        whole: Only whole numbers.
    """
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float], *, margin: float) -> tuple[float, float]:
    """What an axis spans; where all values are equal, some room around them."""
    low, high = min(values), max(values)
    room = (high - low) * margin or (0.0 if high > low else abs(high) * 0.1 or 1.0)
    return low - room, high + room


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: str, anchor: str) -> None:
    draw.text((_FINE * at[0], _FINE * at[1]), text, fill=colour, font=font(_FINE * size), anchor=anchor)


def _line(draw: ImageDraw.ImageDraw, points: Sequence[Point], colour: str, width: int) -> None:
    if len(points) > 1:
        draw.line([(_FINE * x, _FINE * y) for x, y in points], fill=colour, width=_FINE * width, joint="curve")


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, colour: str) -> None:
    radius = 2.5
    draw.ellipse([_FINE * (x - radius), _FINE * (y - radius), _FINE * (x + radius), _FINE * (y + radius)], fill=colour)
