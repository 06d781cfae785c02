"""How charts look: colours and the font."""

from __future__ import annotations

from PIL import ImageFont

INK, FAINT, GRID, PAPER = "#1a1a1a", "#6b6b6b", "#e4e4e4", "#ffffff"
OWN, OTHER = "#0a8f3c", "#9aa4b2"
TITLE_SIZE, TEXT_SIZE = 18, 14


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same on every machine."""
    return ImageFont.load_default(size)
