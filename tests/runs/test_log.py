from __future__ import annotations

import json
from pathlib import Path

import pytest

from mwactl.runs.log import History, read_log
from tests.runs.conftest import start, step, validation


@pytest.fixture
def read(tmp_path: Path):
    """read(events or bytes, …): the history that these lines tell."""

    def history(*lines: dict | bytes) -> History:
        written = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
        (tmp_path / "log.jsonl").write_bytes(b"".join(written))
        return read_log(tmp_path / "log.jsonl")

    return history


def steps(history: History) -> list[tuple[int, float]]:
    return [(each["step"], each["loss"]) for each in history.steps]


def test_no_log_is_an_empty_history(tmp_path: Path):
    assert read_log(tmp_path / "log.jsonl") == History()


def test_steps_that_a_resumed_run_did_again_count_once(read):
    history = read(start(), step(1, 5), step(11, 4), validation(1, 15, 100), step(21, 3), start(15), step(21, 2))
    assert steps(history) == [(1, 5), (11, 4), (21, 2)]
    assert history.starts == [0, 15]
    assert [each["epoch"] for each in history.validations] == [1]


def test_a_restart_forgets_what_was_before(read):
    history = read(start(), step(1, 5), validation(1, 15, 100), start(15), step(21, 4), start(), step(1, 6))
    assert (steps(history), history.validations, history.starts) == ([(1, 6)], [], [0])


def test_a_validation_that_was_repeated_counts_once(read):
    history = read(start(), validation(1, 15, 100), start(15), validation(1, 15, 101), validation(2, 30, 99))
    assert [(each["epoch"], each["rsum"]) for each in history.validations] == [(1, 101), (2, 99)]


def test_a_new_start_takes_back_what_became_of_the_one_before(read):
    published = {"event": "published", "adapter": "coco-mwa@3"}
    ended = [start(), {"event": "end", "step": 30}, published]
    assert (read(*ended).ended_at, read(*ended).adapter) == (30, "coco-mwa@3")
    again = read(*ended, start())
    assert (again.ended_at, again.adapter) == (None, None)
    failed = read(start(), {"event": "failed", "error": "the loss became nan"})
    assert failed.failure == "the loss became nan"
    assert read(start(), {"event": "failed", "error": "x"}, start(0)).failure is None


def test_a_run_that_stopped_early_has_done_the_steps_it_did(read):
    assert read(start(total=300), step(91), {"event": "end", "step": 100}).last_step == 100


@pytest.mark.parametrize("kept", range(0, 60, 7))
def test_half_a_last_line_is_tolerated(read, kept: int):
    half = json.dumps(step(11)).encode()[:kept]
    history = read(start(), step(1), half)
    assert steps(history) == [(1, 1.0)]
    assert history.broken_lines == (1 if kept else 0)


def test_what_a_resumed_run_appended_to_half_a_line_is_read(read):
    half = json.dumps(step(21, 9)).encode()[:40]
    history = read(start(), step(1, 5), step(11, 4), half, start(10), step(11, 3))
    assert steps(history) == [(1, 5), (11, 3)]
    assert (history.starts, history.broken_lines) == ([0, 10], 1)


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0\0",
        b"\xff\xfe",
        b"[1]",
        b'{"event": 3}',
        b'"step"',
        b'{"event": "step", "step": "x", "loss": 1, "lr": 1}',
    ],
    ids=repr,
)
def test_what_is_no_event_is_left_out(read, line: bytes):
    assert steps(read(start(), line + b"\n", step(1))) == [(1, 1.0)]


def test_what_is_not_finite_is_no_number(read):
    history = read(
        start(),
        step(1),
        step(11, float("nan")),
        validation(1, 15, float("inf")),
        b'{"event": "step", "step": 12, "loss": 1e999, "lr": 1}\n',
    )
    assert (steps(history), history.validations, history.broken_lines) == ([(1, 1.0)], [], 0)


def test_an_event_of_a_kind_that_is_not_known_is_left_out(read):
    assert read(start(), {"event": "micro_batch", "size": 4}, step(1)).broken_lines == 0
