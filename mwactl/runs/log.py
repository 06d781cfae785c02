"""A run's log, read: what was written at a power cut or on a full disk is tolerated, and counted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]

_BEGINNING = b'{"event": '


@dataclass
class History:
    """What happened to the weights that a run has now: of steps that a later start did again, only the last counts.

    Args:
        starts: The steps at which it was started, in order: 0, then where it was resumed; a restart begins again.
        total_steps: Of the run; None before the first start.
        processes: That trained it together, at the last start.
        steps: The events `step`, by step.
        validations: The events `validation`, by epoch.
        ended_at: The step after which training was done: the last, or where it stopped early.
        adapter: What was published.
        failure: The error that ended the last attempt.
        broken_lines: Of the log: those that could not be read.
    """

    starts: list[int] = field(default_factory=list)
    total_steps: int | None = None
    processes: int = 1
    steps: list[Event] = field(default_factory=list)
    validations: list[Event] = field(default_factory=list)
    ended_at: int | None = None
    adapter: str | None = None
    failure: str | None = None
    broken_lines: int = 0

    @property
    def last_step(self) -> int:
        """The last step that the log knows of; not every step is logged."""
        logged: list[int] = [each["step"] for each in (*self.steps[-1:], *self.validations[-1:])]
        return max([0, self.ended_at or 0, *self.starts[-1:], *logged])

    def add(self, event: Event) -> None:
        """Take one event into account; an event that lacks its numbers is none."""
        kind = event["event"]
        if kind == "start" and _has(event, "step", "total_steps"):
            self._start(event)
        elif kind == "step" and _has(event, "step", "loss", "lr"):
            self.steps.append(event)
        elif kind == "validation" and _has(event, "step", "epoch", "rsum"):
            self.validations = [each for each in self.validations if each["epoch"] < event["epoch"]] + [event]
        elif kind == "end" and _has(event, "step"):
            self.ended_at = event["step"]
        elif kind == "published":
            self.adapter = str(event.get("adapter"))
        elif kind == "failed":
            self.failure = str(event.get("error"))

    def _start(self, event: Event) -> None:
        at = event["step"]
        self.starts = [*self.starts, at] if at else [0]
        self.total_steps, self.processes = event["total_steps"], event.get("processes", 1)
        self.steps = [each for each in self.steps if each["step"] <= at]
        self.validations = [each for each in self.validations if each["step"] <= at]
        self.ended_at = self.adapter = self.failure = None


def read_log(path: Path) -> History:
    """The history that a log tells; empty where there is no log yet."""
    history = History()
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for line in lines:
        event = _event(line)
        if event is None:
            history.broken_lines += 1
            # What was appended to the half of a line is whole.
            event = _event(line[max(0, line.rfind(_BEGINNING)) :])
        if event is not None:
            history.add(event)
    return history


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line, parse_constant=lambda _: None)  # NaN is no number to show
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _has(event: Event, *names: str) -> bool:
    """Whether these are numbers."""
    return all(isinstance(event.get(name), int | float) and math.isfinite(event[name]) for name in names)
