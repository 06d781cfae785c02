"""A run's curves as a picture."""

from __future__ import annotations

from pathlib import Path

from mwactl.chart.lines import Line, Panel, Point, draw_panels
from mwactl.files import atomic_file
from mwactl.runs.folder import CURVES_FILE, LOG_FILE
from mwactl.runs.log import History, read_log

_SMOOTHING = 0.9


def draw_curves(folder: Path, to: Path | None = None) -> Path:
    """Draw what a run's log tells: loss, learning rate and, where there is a validation, its RSUM and R@1.

    Args:
        folder: The run's.
        to: The PNG file; it appears complete or not at all. Default: `curves.png` in the folder.

    Returns:
        The file.

    Raises:
        ResourceError: The disk is full, or this is not a place to write to.
        UsageError: There can be no such file.
    """
    to = to or folder / CURVES_FILE
    picture = draw_panels(folder.name, panels(read_log(folder / LOG_FILE)))
    with atomic_file(to) as file:
        picture.save(file, format="PNG", optimize=True)
    return to


def panels(history: History) -> list[Panel]:
    """The curves of a history."""
    loss = [(each["step"], each["loss"]) for each in history.steps]
    rate = [(each["step"], each["lr"]) for each in history.steps]
    drawn = [
        Panel("loss", "step", [Line(loss, "as logged", own=False), Line(smooth(loss), "smoothed")]),
        Panel("learning rate", "step", [Line(rate)]),
    ]
    if not history.validations:
        return drawn
    ways = {"text_to_image_R@1": ("text to image", True), "image_to_text_R@1": ("image to text", False)}
    recalls = {key: [(v["epoch"], v[key]) for v in history.validations if key in v] for key in ways}
    rsum = [(each["epoch"], each["rsum"]) for each in history.validations]
    return [
        *drawn,
        Panel("validation RSUM", "epoch", [Line(rsum)]),
        Panel("validation R@1", "epoch", [Line(recalls[key], label, own) for key, (label, own) in ways.items()]),
    ]


def smooth(points: list[Point]) -> list[Point]:
    """The exponential moving average of y, without the pull of a start at zero: the first value is the first point's.

    m_t = a · m_(t-1) + (1 - a) · y_t;  smoothed_t = m_t / (1 - a^t)  (the bias correction of Adam, arXiv:1412.6980)
    """
    smoothed, mean, weight = [], 0.0, 1.0
    for x, y in points:
        mean, weight = _SMOOTHING * mean + (1 - _SMOOTHING) * y, weight * _SMOOTHING
        smoothed.append((x, mean / (1 - weight)))
    return smoothed
