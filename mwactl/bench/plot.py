"""The result as a picture: one bar a variant, in two panels."""

from __future__ import annotations

import statistics
from pathlib import Path

from PIL import Image, ImageDraw

from mwactl.bench.comparison import Comparison
from mwactl.chart.style import FAINT, INK, OTHER, OWN, PAPER, TEXT_SIZE, TITLE_SIZE, font
from mwactl.files import atomic_file

_WIDTH, _MARGIN, _LABEL, _BAR, _GAP, _HEADER, _PANEL_GAP = 860, 24, 110, 22, 12, 84, 40


def plot_steps(comparison: Comparison, to: Path) -> None:
    """Draw time and saved activations per pair into the PNG file `to`, which appears complete or not at all.

    Raises:
        ResourceError: The disk is full.
    """
    rows = comparison.rows
    names = [row.variant for row in rows]
    panels = [
        ("milliseconds a pair", [1e3 * statistics.median(row.seconds_per_pair()) for row in rows]),
        ("MB that autograd saves, a pair", [row.saved_bytes / 1e6 for row in rows]),
    ]
    height = _HEADER + len(rows) * (_BAR + _GAP) + _MARGIN
    picture = Image.new("RGB", (_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(picture)
    setup = comparison.setup
    title = f"Training step of {setup.backbone}, {setup.precision}, batch of {setup.batch_size}"
    draw.text((_MARGIN, 14), title, fill=INK, font=font(TITLE_SIZE))
    panel = (_WIDTH - 2 * _MARGIN - _LABEL - _PANEL_GAP) // 2
    for number, (heading, values) in enumerate(panels):
        left = _MARGIN + _LABEL + number * (panel + _PANEL_GAP)
        draw.text((left, _HEADER - 30), heading, fill=FAINT, font=font(TEXT_SIZE))
        _draw_bars(draw, names, values, left, panel)
    for index, name in enumerate(names):
        draw.text((_MARGIN, _top(index) + 3), name, fill=INK, font=font(TEXT_SIZE))
    with atomic_file(to) as file:
        picture.save(file, format="PNG", optimize=True)


def _draw_bars(draw: ImageDraw.ImageDraw, names: list[str], values: list[float], left: int, width: int) -> None:
    longest = max(values) or 1.0
    room = width - 60  # for the number behind the longest bar
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        right = left + max(1, round(room * value / longest))
        colour = OWN if name.startswith("mwa") and not name.endswith(("plain", "strong")) else OTHER
        draw.rectangle((left, _top(index), right, _top(index) + _BAR), fill=colour)
        draw.text((right + 6, _top(index) + 3), f"{value:,.4g}", fill=INK, font=font(TEXT_SIZE))


def _top(index: int) -> int:
    return _HEADER + index * (_BAR + _GAP)
