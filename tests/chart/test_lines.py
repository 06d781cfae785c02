from __future__ import annotations

import math

import pytest
from PIL import Image, ImageColor

from mwactl.chart.lines import Line, Panel, draw_panels, ticks
from mwactl.chart.style import OTHER, OWN


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2.1, 3.9, False, [2.5, 3, 3.5]),
        (-1, 1, False, [-1, -0.5, 0, 0.5, 1]),
        (1, 3, True, [1, 2, 3]),
        (1, 2, True, [1, 2]),
        (0, 123_456, True, [0, 50_000, 100_000]),
    ],
)
def test_ticks_are_round_numbers_inside_the_axis(low, high, whole, expected):
    assert ticks(low, high, whole=whole) == pytest.approx(expected)


def test_an_axis_of_any_size_has_two_to_six_ticks():
    for exponent in range(-9, 10):
        for factor in (1.0, 1.7, 3.1, 4.9, 9.3):
            assert 2 <= len(ticks(0.37, 0.37 + factor * 10.0**exponent)) <= 6, (factor, exponent)


def pixels_of(picture: Image.Image, colour: str) -> list[tuple[int, int]]:
    """Where a colour is, by x."""
    wanted, width = ImageColor.getrgb(colour), picture.width
    return sorted((i % width, i // width) for i, found in enumerate(picture.get_flattened_data()) if found == wanted)


def drawn(*lines: Line) -> Image.Image:
    return draw_panels("a run", [Panel("loss", "step", lines)])


def test_a_curve_that_rises_is_drawn_rising():
    places = pixels_of(drawn(Line([(0, 1.0), (10, 2.0)])), OWN)
    assert places[0][0] < places[-1][0] - 200
    assert places[0][1] > places[-1][1] + 100, "y grows downwards in a picture"


def test_curves_of_a_panel_share_its_axes():
    picture = drawn(Line([(0, 0.0), (10, 0.0)], own=False), Line([(0, 10.0), (10, 10.0)]))
    assert min(y for _, y in pixels_of(picture, OTHER)) > max(y for _, y in pixels_of(picture, OWN)) + 100


def test_a_single_point_and_equal_points_are_drawn():
    assert pixels_of(drawn(Line([(1, 0.5)])), OWN)
    assert pixels_of(drawn(Line([(1, 0.0), (2, 0.0)])), OWN)


def test_what_is_not_finite_is_left_out():
    points = [(1, 1.0), (3, 3.0)]
    broken = [(1, 1.0), (2, math.nan), (2, math.inf), (3, 3.0)]
    assert drawn(Line(broken)).tobytes() == drawn(Line(points)).tobytes()


def test_a_panel_without_points_says_so():
    empty = drawn(Line([]))
    assert not pixels_of(empty, OWN)
    assert len(set(empty.get_flattened_data())) > 10, "there is text"


def test_panels_go_in_two_columns():
    panel = Panel("loss", "step", [Line([(0, 1), (1, 2)])])
    one, two, three = (draw_panels("a run", [panel] * count) for count in (1, 2, 3))
    assert one.size == two.size
    assert three.width == two.width
    assert three.height > two.height
