"""Trackers: what the log of a run says, also in TensorBoard, Weights & Biases or trackio.

The log in the run's folder is the truth and is written first. A tracker that cannot begin is an error before the first
step; one that fails later is named once and left alone. None touches the network unless its user's environment asks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from mwactl.errors import MwactlError, UsageError
from mwactl.progress import Reporter

_PROJECT = "mwactl"
_GROUPS = {"step": "train", "validation": "validation"}
_POSITION = ("step", "epoch")


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run.

    Args:
        folder: The run's; its name is the run's in every tracker, so that a resumed run goes on there.
        recipe: As it was used.
    """

    folder: Path
    recipe: dict[str, Any]


class Tracker(Protocol):
    """One place that shows curves. Made before anything is trained, with an `ImportError` where its package lacks."""

    def start(self, step: int) -> None:
        """Training goes on from here: 0, or where it is resumed."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Numbers by name, `train/loss` say, after a step."""

    def finish(self, *, failed: bool) -> None:
        """Nothing more will come."""


class TensorBoard:
    """Event files in the run's folder, under `tensorboard`; by torch's own writer."""

    def __init__(self, run: TrackedRun) -> None:
        self._writer_class = import_module("torch.utils.tensorboard").SummaryWriter
        self._folder = run.folder / "tensorboard"
        self._writer: Any = None

    def start(self, step: int) -> None:
        """Steps after `step` that an earlier attempt wrote are hidden."""
        self._writer = self._writer_class(str(self._folder), purge_step=step + 1, flush_secs=10)

    def log(self, values: dict[str, float], step: int) -> None:
        """One scalar a value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, *, failed: bool) -> None:
        """Write what is left."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, offline in the run's folder unless `WANDB_MODE` says otherwise."""

    def __init__(self, run: TrackedRun) -> None:
        self._mode = os.environ.get("WANDB_MODE") or "offline"
        if self._mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it is read at import
        self._wandb = import_module("wandb")
        self._tracked = run
        self._run: Any = None

    def start(self, step: int) -> None:
        """Go on with the run of this name where training goes on; else begin it anew."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            id=self._tracked.folder.name,
            name=self._tracked.folder.name,
            dir=str(self._tracked.folder),
            config=self._tracked.recipe,
            mode=self._mode,
            resume="allow" if step else None,
            # It would otherwise take stdout over and look for a git repository.
            settings=self._wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )
        # A step of its own: after a resumption some come again, which W&B's own counter refuses.
        self._run.define_metric("*", step_metric="step")

    def log(self, values: dict[str, float], step: int) -> None:
        """One row."""
        self._run.log({**values, "step": step})

    def finish(self, *, failed: bool) -> None:
        """Wait until everything is written, or sent."""
        self._run.finish(exit_code=int(failed))


class Trackio:
    """A run of trackio in its local database, unless its own environment names a Space or a server."""

    def __init__(self, run: TrackedRun) -> None:
        self._trackio = import_module("trackio")
        self._tracked = run
        self._run: Any = None

    def start(self, step: int) -> None:
        """Go on with the run of this name where training goes on; else begin another of the same name."""
        with _without_its_chatter():
            self._run = self._trackio.init(
                project=_PROJECT,
                name=self._tracked.folder.name,
                config=self._tracked.recipe,
                resume="allow" if step else "never",
                embed=False,
            )

    def log(self, values: dict[str, float], step: int) -> None:
        """One row."""
        self._run.log(values, step=step)

    def finish(self, *, failed: bool) -> None:
        """Wait until everything is written, or sent."""
        with _without_its_chatter():
            self._trackio.finish()


def _without_its_chatter() -> AbstractContextManager[object]:
    """What trackio prints for people goes nowhere: stdout is the command's answer."""
    return redirect_stdout(StringIO())


TRACKERS: dict[str, type[TensorBoard] | type[WandB] | type[Trackio]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
"""What `train.track` may name; each is an extra of this package by the same name."""


class Trackers:
    """All trackers of a run, as one listener of its log.

    Args:
        names: Of `TRACKERS`; none: nothing is tracked.
        run: The run.
        reporter: Who hears of a tracker that fails.

    Raises:
        UsageError: A tracker's package is not installed.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun, reporter: Reporter) -> None:
        self._reporter = reporter
        self._trackers: dict[str, Tracker] = {name: _make(name, run) for name in names}
        self._started: dict[str, Tracker] = {}

    def event(self, event: str, facts: dict[str, Any]) -> None:
        """Pass one event of the log on: the start, and the numbers of steps and validations.

        Raises:
            MwactlError: A tracker cannot begin.
        """
        if event == "start":
            self._start(facts["step"])
        elif event in _GROUPS:
            group = _GROUPS[event]
            values = {f"{group}/{_plain(name)}": value for name, value in facts.items() if _is_metric(name, value)}
            for name in list(self._started):
                self._attempt(name, lambda tracker: tracker.log(values, facts["step"]))

    def close(self, *, failed: bool) -> None:
        """End those that have begun."""
        for name in list(self._started):
            self._attempt(name, lambda tracker: tracker.finish(failed=failed))
        self._started.clear()

    def _start(self, step: int) -> None:
        for name, tracker in self._trackers.items():
            try:
                tracker.start(step)
            except Exception as error:
                raise MwactlError(
                    f"the tracker {name} cannot begin; nothing was trained",
                    why=f"{type(error).__name__}: {_first_line(error)}",
                    fix="put its settings right, or leave it out: train.track=[]",
                ) from error
            self._started[name] = tracker

    def _attempt(self, name: str, action: Callable[[Tracker], None]) -> None:
        """A tracker that fails is named, and never asked again."""
        try:
            action(self._started[name])
        except Exception as error:
            del self._started[name]
            self._reporter.warn(
                f"the tracker {name} failed and gets nothing more ({type(error).__name__}: {_first_line(error)}); "
                "the run's own log goes on"
            )


def _make(name: str, run: TrackedRun) -> Tracker:
    try:
        return TRACKERS[name](run)
    except ImportError as error:
        raise UsageError(
            f"train.track names {name}, which is not installed",
            why=_first_line(error),
            fix=f"pip install 'mwactl[{name}]', or train.track=[]",
        ) from error


def _is_metric(name: str, value: Any) -> bool:
    return name not in _POSITION and isinstance(value, int | float) and not isinstance(value, bool)


def _plain(name: str) -> str:
    """Without the `@` of `R@1`, which not every tracker takes in a name."""
    return name.replace("@", "")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
