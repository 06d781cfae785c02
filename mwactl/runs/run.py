"""One run: what its folder says of it. Nothing is loaded but the log, the recipe and the checkpoint's header."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from mwactl.home import runs_path
from mwactl.runs.folder import CHECKPOINT_FILE, LOCK_FILE, LOG_FILE, RECIPE_FILE
from mwactl.runs.log import History, read_log


class State(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """A run.

    Args:
        folder: Its files; the folder's name is the run's.
        recipe: As it was used; empty where none can be read.
        history: What its log tells.
        state: What became of it.
        checkpoint_step: Where `--resume` would go on; None: there is no checkpoint, or none that can be read.
        checkpoint_damaged: Whether there is one that cannot be read.
        changed: When it was last heard of.
    """

    folder: Path
    recipe: dict[str, Any]
    history: History
    state: State
    checkpoint_step: int | None
    checkpoint_damaged: bool
    changed: datetime

    @property
    def id(self) -> str:
        """The folder's name: the recipe's, and the beginning of a digest of all that decides the result."""
        return self.folder.name

    @property
    def name(self) -> str:
        """What the adapter is, or would be, called."""
        return str(self.recipe.get("name") or self.id.rpartition("-")[0] or self.id)

    @property
    def steps(self) -> int:
        """Steps done, as far as it is known; of an interrupted run those that are in its checkpoint."""
        if self.state is not State.RUNNING and self.checkpoint_step is not None:
            return self.checkpoint_step
        return self.history.last_step

    @property
    def loss(self) -> float | None:
        """The last that was logged."""
        return self.history.steps[-1]["loss"] if self.history.steps else None

    @property
    def best(self) -> dict[str, Any] | None:
        """The validation with the highest RSUM, the earliest of equals."""
        return max(self.history.validations, key=lambda each: each["rsum"], default=None)

    @property
    def resume_command(self) -> str | None:
        """What goes on with it; None where nothing is left to do, or there is no recipe to do it with."""
        here = runs_path() / self.id  # a run that was copied from another machine does not go on here
        if self.state not in (State.INTERRUPTED, State.FAILED) or not self.recipe or not _same(here, self.folder):
            return None
        words = ["mwactl", "train", str(self.folder / RECIPE_FILE)]
        if self.history.processes > 1:
            words += ["--nproc", str(self.history.processes)]
        return shlex.join([*words, *self._way_on()])

    def _way_on(self) -> list[str]:
        if self.checkpoint_damaged:
            return ["--restart"]
        return [] if self.checkpoint_step is None else ["--resume"]

    def setting(self, *path: str) -> Any:
        """A value of the recipe; None where it is not there."""
        found: Any = self.recipe
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found


def read_run(folder: Path) -> Run:
    """What a run's folder says.

    Raises:
        OSError: It may not be read.
    """
    history = read_log(folder / LOG_FILE)
    checkpoint = folder / CHECKPOINT_FILE
    saved = checkpoint.is_file()
    step = _step_of(checkpoint) if saved else None
    return Run(
        folder=folder,
        recipe=_recipe(folder / RECIPE_FILE),
        history=history,
        state=_state(history, running=_is_locked(folder / LOCK_FILE), saved=saved),
        checkpoint_step=step,
        checkpoint_damaged=saved and step is None,
        changed=_changed(folder),
    )


def _state(history: History, *, running: bool, saved: bool) -> State:
    """The checkpoint goes when the adapter is published: one that is still there means that there is work left."""
    if running:
        return State.RUNNING
    if history.adapter is not None or (history.ended_at is not None and not saved):
        return State.FINISHED
    return State.FAILED if history.failure is not None else State.INTERRUPTED


def _is_locked(path: Path) -> bool:
    """Whether a process trains in this folder. Asked with a shared lock: who looks disturbs nobody else who looks."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _step_of(checkpoint: Path) -> int | None:
    """The step of a checkpoint, by its header; None where it is no checkpoint, or half of one."""
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            step = json.loads(file.metadata()["mwactl"])["position"]["step"]
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
    return step if isinstance(step, int) else None


def _recipe(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_bytes())
    except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def _changed(folder: Path) -> datetime:
    files = [path for path in (folder / LOG_FILE, folder / CHECKPOINT_FILE, folder) if path.exists()]
    return datetime.fromtimestamp(files[0].stat().st_mtime, UTC).replace(microsecond=0)
