from __future__ import annotations

import pytest
from PIL import Image

from mwactl.runs.curves import draw_curves, panels, smooth
from mwactl.runs.log import History
from tests.runs.conftest import start, step, validation


def history(*events: dict) -> History:
    told = History()
    for event in events:
        told.add(event)
    return told


def test_smoothing_begins_at_the_first_value_and_keeps_a_constant():
    assert smooth([(1, 4.0)]) == [(1, pytest.approx(4.0))]
    assert smooth([(n, 2.5) for n in range(50)]) == [(n, pytest.approx(2.5)) for n in range(50)]
    assert smooth([]) == []


def test_smoothing_is_a_weighted_mean_of_what_came_before():
    values = [3.0, -1.0, 4.0, 1.0]
    weights = [0.9**3, 0.9**2, 0.9, 1.0]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert smooth(list(enumerate(values)))[-1][1] == pytest.approx(expected)


def test_loss_and_learning_rate_are_drawn_by_step():
    loss, rate = panels(history(start(), step(1, 5.0), step(11, 3.0)))
    assert loss.heading == "loss"
    assert loss.lines[0].points == [(1, 5.0), (11, 3.0)]
    assert rate.lines[0].points == [(1, 1e-3), (11, 1e-3)]


def test_validation_is_drawn_by_epoch_where_there_is_one():
    _, _, rsum, recall = panels(history(start(), step(1), validation(1, 10, 100.0), validation(2, 20, 120.0)))
    assert rsum.lines[0].points == [(1, 100.0), (2, 120.0)]
    assert {line.label: line.points for line in recall.lines} == {
        "text to image": [(1, 5.0), (2, 6.0)],
        "image to text": [(1, 10.0), (2, 12.0)],
    }


def test_the_picture_goes_into_the_runs_folder_and_is_the_same_each_time(write_run, tmp_path):
    folder = write_run("coco-mwa-1a2b3c4d", start(), step(1, 5), step(11, 3), validation(1, 15, 100.0))
    drawn = draw_curves(folder)
    assert drawn == folder / "curves.png"
    with Image.open(drawn) as picture:
        assert picture.size[0] > 800
    assert draw_curves(folder, tmp_path / "again.png").read_bytes() == drawn.read_bytes()


def test_a_run_that_has_logged_nothing_is_drawn_too(write_run):
    assert draw_curves(write_run("coco-mwa-1a2b3c4d")).is_file()
