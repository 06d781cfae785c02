"""Small charts of numbers: a line of text, and pictures by Pillow alone, which look the same on every machine."""

from mwactl.chart.bars import bars

__all__ = ["bars"]
