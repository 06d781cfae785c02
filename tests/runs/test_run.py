from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mwactl.home import runs_path
from mwactl.runs import State, read_run
from mwactl.runs import folder as files
from mwactl.train import checkpoint
from mwactl.train import log as train_log
from mwactl.workflow import facts
from tests.runs.conftest import start, step, validation

END = {"event": "end", "step": 30, "best_epoch": 1}
PUBLISHED = {"event": "published", "adapter": "coco-mwa@3"}
FAILED = {"event": "failed", "error": "the loss became nan at step 12"}


def test_the_files_are_those_that_training_writes():
    written = (train_log.FILE_NAME, checkpoint.FILE_NAME, facts.RECIPE_FILE)
    assert written == (files.LOG_FILE, files.CHECKPOINT_FILE, files.RECIPE_FILE)


@pytest.mark.parametrize(
    ("events", "saved", "state"),
    [
        ([], None, State.INTERRUPTED),
        ([start(), step(1)], None, State.INTERRUPTED),
        ([start(), step(1)], 5, State.INTERRUPTED),
        ([start(), step(1), FAILED], None, State.FAILED),
        ([start(), step(1), FAILED], 5, State.FAILED),
        ([start(), step(1), FAILED, start(5)], 5, State.INTERRUPTED),
        ([start(), END], None, State.FINISHED),
        ([start(), END, PUBLISHED], None, State.FINISHED),
        ([start(), END, PUBLISHED], 30, State.FINISHED),
        ([start(), END], 30, State.INTERRUPTED),
        ([start(), END, PUBLISHED, start()], None, State.INTERRUPTED),
    ],
)
def test_the_state_follows_from_log_and_checkpoint(write_run, events, saved, state):
    assert read_run(write_run("coco-mwa-1a2b3c4d", *events, checkpoint=saved)).state is state


def test_a_run_is_running_while_another_process_holds_its_lock(write_run):
    folder = write_run("coco-mwa-1a2b3c4d", start(), step(1), checkpoint=5)
    program = (
        "import sys; from filelock import FileLock\n"
        f"with FileLock({str(folder / 'lock')!r}):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        trainer.stdout.readline()
        running = read_run(folder)
        assert (running.state, running.resume_command) == (State.RUNNING, None)
        assert read_run(folder).state is State.RUNNING
        trainer.kill()
    assert read_run(folder).state is State.INTERRUPTED


def test_an_interrupted_run_goes_on_from_its_checkpoint(write_run):
    folder = write_run("coco-mwa-1a2b3c4d", start(), step(1), step(11), checkpoint=8)
    run = read_run(folder)
    assert (run.steps, run.checkpoint_step) == (8, 8)
    assert run.resume_command == f"mwactl train {folder}/recipe.yaml --resume"


def test_without_a_checkpoint_there_is_nothing_to_resume(write_run):
    run = read_run(write_run("coco-mwa-1a2b3c4d", start(), step(1)))
    assert run.resume_command == f"mwactl train {run.folder}/recipe.yaml"


def test_a_run_of_several_processes_is_resumed_with_as_many(write_run):
    run = read_run(write_run("coco-mwa-1a2b3c4d", start(processes=4), checkpoint=8))
    assert run.resume_command == f"mwactl train {run.folder}/recipe.yaml --nproc 4 --resume"


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_noticed_and_can_only_be_thrown_away(write_run, damage: bytes | None):
    folder = write_run("coco-mwa-1a2b3c4d", start(), step(11), checkpoint=8)
    path = folder / files.CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:40] if damage is None else damage)
    run = read_run(folder)
    assert (run.checkpoint_damaged, run.checkpoint_step, run.state) == (True, None, State.INTERRUPTED)
    assert str(run.resume_command).endswith("recipe.yaml --restart")


def test_a_run_that_was_copied_elsewhere_is_read_but_not_gone_on_with(write_run, tmp_path: Path):
    folder = write_run("coco-mwa-1a2b3c4d", start(), step(11), checkpoint=8)
    copied = folder.rename(tmp_path / folder.name)
    assert (read_run(copied).steps, read_run(copied).resume_command) == (8, None)


def test_the_best_validation_is_the_earliest_of_equals(write_run):
    events = [validation(1, 10, 90.0), validation(2, 20, 120.0), validation(3, 30, 120.0), validation(4, 40, 30.0)]
    run = read_run(write_run("coco-mwa-1a2b3c4d", start(), *events))
    assert run.best == events[1]


@pytest.mark.parametrize("recipe", [b"", b"\xff\xfe\0", b"a: [", b"just words"])
def test_a_recipe_that_cannot_be_read_leaves_the_folders_name(write_run, recipe: bytes):
    folder = write_run("coco-mwa-1a2b3c4d", start(), step(1))
    (folder / "recipe.yaml").write_bytes(recipe)
    run = read_run(folder)
    assert (run.name, run.setting("method", "name"), run.resume_command) == ("coco-mwa", None, None)


def test_an_empty_folder_is_a_run_that_did_not_begin(empty_home: Path):
    (runs_path() / "coco-mwa-1a2b3c4d").mkdir(parents=True)
    run = read_run(runs_path() / "coco-mwa-1a2b3c4d")
    assert (run.state, run.steps, run.loss, run.best) == (State.INTERRUPTED, 0, None, None)
