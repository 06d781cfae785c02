from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mwactl.errors import MwactlError, UsageError
from mwactl.progress import Silent
from mwactl.train.track import TRACKERS, TrackedRun, Trackers

STEP = {"step": 11, "epoch": 2, "loss": 0.5, "lr": 1e-3, "data_stall": 0.1, "note": "x", "flag": True}
VALIDATION = {"step": 15, "epoch": 2, "rsum": 300.0, "text_to_image_R@1": 25.0}


class Listener(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Recorder:
    """Stands for the run of a tracker: remembers what it was told, and fails where it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []
        self.fails = ""

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Recorder:
            self.calls.append((name, arguments, options))
            if name == self.fails:
                raise RuntimeError("the server is gone\nTraceback …")
            return self

        return call

    def told(self, name: str) -> list[tuple[Any, Any]]:
        return [(arguments, options) for called, arguments, options in self.calls if called == name]


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    return TrackedRun(tmp_path / "coco-mwa-1a2b3c4d", {"name": "coco-mwa", "train": {"lr": 1e-3}})


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """package(name): a package of this name whose every function is recorded."""
    for variable in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(variable, raising=False)

    def install(name: str) -> Recorder:
        module, recorder = ModuleType(name), Recorder()
        module.init, module.finish = recorder.init, recorder.finish  # type: ignore[attr-defined]
        module.Settings = SimpleNamespace  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        return recorder

    return install


def a_whole_run(trackers: Trackers, *, first: int = 0, failed: bool = False) -> None:
    trackers.event("start", {"step": first, "total_steps": 30})
    trackers.event("step", STEP)
    trackers.event("micro_batch", {"step": 11, "size": 4})
    trackers.event("validation", VALIDATION)
    trackers.close(failed=failed)


def test_wandb_is_told_every_number_of_steps_and_validations(package, run: TrackedRun):
    wandb = package("wandb")
    a_whole_run(Trackers(["wandb"], run, Silent()))
    assert [row for (row,), _ in wandb.told("log")] == [
        {"step": 11, "train/loss": 0.5, "train/lr": 1e-3, "train/data_stall": 0.1},
        {"step": 15, "validation/rsum": 300.0, "validation/text_to_image_R1": 25.0},
    ]
    assert wandb.told("define_metric") == [(("*",), {"step_metric": "step"})]
    assert wandb.told("finish") == [((), {"exit_code": 0})]


def test_wandb_is_offline_in_the_runs_folder_and_leaves_stdout_alone(package, run: TrackedRun):
    wandb = package("wandb")
    a_whole_run(Trackers(["wandb"], run, Silent()), failed=True)
    [(_, options)] = wandb.told("init")
    assert (options["mode"], options["dir"], options["project"]) == ("offline", str(run.folder), "mwactl")
    assert options["config"] == run.recipe
    assert (options["settings"].console, options["settings"].silent) == ("off", True)
    assert wandb.told("finish") == [((), {"exit_code": 1})]


def test_wandb_goes_online_where_the_environment_says_so(package, run: TrackedRun, monkeypatch):
    wandb = package("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "retrieval")
    a_whole_run(Trackers(["wandb"], run, Silent()))
    [(_, options)] = wandb.told("init")
    assert (options["mode"], options["project"]) == ("online", "retrieval")


@pytest.mark.parametrize(("name", "anew"), [("wandb", None), ("trackio", "never")])
def test_a_resumed_run_goes_on_in_the_trackers_run_of_the_same_name(package, run: TrackedRun, name: str, anew):
    recorder = package(name)
    a_whole_run(Trackers([name], run, Silent()))
    a_whole_run(Trackers([name], run, Silent()), first=10)
    first, second = (options for _, options in recorder.told("init"))
    assert first["name"] == second["name"] == "coco-mwa-1a2b3c4d"
    assert first.get("id") == second.get("id")
    assert (first["resume"], second["resume"]) == (anew, "allow")


def test_trackio_is_told_the_same_and_prints_nothing(package, run: TrackedRun, monkeypatch, capsys):
    trackio = package("trackio")
    finish = sys.modules["trackio"].finish
    monkeypatch.setattr(sys.modules["trackio"], "finish", lambda: (print("* Run finished"), finish()), raising=False)
    a_whole_run(Trackers(["trackio"], run, Silent()))
    assert [(row, options["step"]) for (row,), options in trackio.told("log")] == [
        ({"train/loss": 0.5, "train/lr": 1e-3, "train/data_stall": 0.1}, 11),
        ({"validation/rsum": 300.0, "validation/text_to_image_R1": 25.0}, 15),
    ]
    assert len(trackio.told("finish")) == 1
    assert capsys.readouterr().out == ""


def test_tensorboard_shows_what_was_logged_and_hides_what_a_resumed_run_did_again(run: TrackedRun):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = Trackers(["tensorboard"], run, Silent())
    a_whole_run(before)
    resumed = Trackers(["tensorboard"], run, Silent())
    resumed.event("start", {"step": 10, "total_steps": 30})
    resumed.event("step", STEP | {"loss": 0.25})
    resumed.close(failed=False)

    shown = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert set(shown.Tags()["scalars"]) == {
        "train/loss", "train/lr", "train/data_stall", "validation/rsum", "validation/text_to_image_R1",
    }  # fmt: skip
    assert [(event.step, event.value) for event in shown.Scalars("train/loss")] == [(11, 0.25)]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_an_error_with_the_command_that_installs_it(
    name: str, run: TrackedRun, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(UsageError, match=f"train.track names {name}, which is not installed") as error:
        Trackers([name], run, Silent())
    assert error.value.fix == f"pip install 'mwactl[{name}]', or train.track=[]"


def test_a_tracker_that_cannot_begin_is_an_error_and_those_that_have_begun_are_ended(package, run: TrackedRun):
    wandb, trackio = package("wandb"), package("trackio")
    trackio.fails = "init"
    trackers = Trackers(["wandb", "trackio"], run, Silent())
    with pytest.raises(MwactlError, match="the tracker trackio cannot begin; nothing was trained") as error:
        trackers.event("start", {"step": 0})
    assert error.value.why == "RuntimeError: the server is gone"
    trackers.close(failed=True)
    assert wandb.told("finish") == [((), {"exit_code": 1})]
    assert trackio.told("finish") == []


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_tracker_that_fails_later_is_named_once_and_the_others_go_on(package, run: TrackedRun, fails: str):
    wandb, trackio, listener = package("wandb"), package("trackio"), Listener()
    wandb.fails = fails
    trackers = Trackers(["wandb", "trackio"], run, listener)
    a_whole_run(trackers)
    assert len(listener.warnings) == 1
    assert "the tracker wandb failed" in listener.warnings[0]
    assert len(wandb.told(fails)) == 1
    assert len(trackio.told("log")) == 2


def test_nothing_is_imported_where_nothing_is_tracked(run: TrackedRun, monkeypatch):
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    a_whole_run(Trackers([], run, Silent()))


def test_an_interruption_is_not_swallowed(package, run: TrackedRun, monkeypatch):
    package("wandb")
    trackers = Trackers(["wandb"], run, Silent())
    trackers.event("start", {"step": 0})

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trackers._started["wandb"], "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trackers.event("step", STEP)
