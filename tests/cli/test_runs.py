from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from mwactl.cli.completion import complete_run
from mwactl.errors import Interrupted, ResourceError
from mwactl.home import runs_path
from mwactl.train import checkpoint

RUN = "coco-mwa-1a2b3c4d"
EVENTS: list[dict[str, Any]] = [
    {"event": "start", "step": 0, "total_steps": 1200, "processes": 1},
    {"event": "step", "step": 1, "epoch": 1, "loss": 5.0, "lr": 1e-4},
    {"event": "validation", "step": 600, "epoch": 1, "rsum": 410.0, "text_to_image_R@1": 41.0},
    {
        "event": "step", "step": 1191, "epoch": 2, "loss": 2.5, "lr": 1e-6, "pairs_per_second": 123.4,
        "data_stall": 0.031, "peak_memory_bytes": 2_100_000_000,
    },
    {"event": "validation", "step": 1200, "epoch": 2, "rsum": 402.5, "text_to_image_R@1": 40.0},
    {"event": "end", "step": 1200},
    {"event": "published", "adapter": "coco-mwa@3", "digest": "0" * 64},
]  # fmt: skip


@pytest.fixture
def write_run(empty_home: Path) -> Callable[..., Path]:
    def write(name: str = RUN, events: list[dict[str, Any]] = EVENTS) -> Path:
        folder = runs_path() / name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text("name: coco-mwa\nmethod: {name: mwa}\ndata: {name: coco}\n")
        (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        return folder

    return write


def test_no_runs_are_an_empty_list_and_a_hint(mwactl_cli):
    human = mwactl_cli("runs", "list")
    assert (human.code, human.stdout) == (0, "")
    assert human.stderr == "no runs so far\nnext: mwactl recipes list\n"
    assert mwactl_cli("runs", "list", "--json").json == {"schema": 1, "runs": []}


def test_list_says_what_became_of_each_run(mwactl_cli, write_run):
    folder = write_run()
    [row] = [line.split("\t") for line in mwactl_cli("runs", "list").stdout.splitlines()]
    assert row[:6] == [RUN, "mwa", "finished → coco-mwa@3", "1,200 of 1,200", "2.500", "410.0"]
    assert row[7] == str(folder)
    assert mwactl_cli("runs", "list", "-q").stdout == f"{RUN}\n"
    [document] = mwactl_cli("runs", "list", "--json").json["runs"]
    assert set(document) == {
        "run", "name", "method", "state", "adapter", "steps", "total_steps", "loss", "best_rsum", "best_epoch",
        "checkpoint_step", "resume", "changed", "folder",
    }  # fmt: skip
    assert (document["state"], document["adapter"], document["best_epoch"]) == ("finished", "coco-mwa@3", 1)


def test_show_prints_curves_validations_and_the_next_command(mwactl_cli, write_run):
    write_run()
    result = mwactl_cli("runs", "show", "coco")
    lines = result.stdout.splitlines()
    assert lines[0] == f"{RUN}: finished → coco-mwa@3"
    assert "loss\t█▁  5.000 to 2.500" in lines
    assert "RSUM\t█▁  best 410.0, epoch 1" in lines
    assert "speed\t123 pairs/s, data stall 3%, peak memory 2.1 GB" in lines
    assert lines[-2:] == ["1\t600\t410.0\t41.0\t", "2\t1,200\t402.5\t40.0\t"]
    assert result.stderr == "next: mwactl eval coco-mwa@3 --data coco\n"
    assert mwactl_cli("runs", "show", "coco", "-q").stdout == f"{RUN}\n"


def test_show_as_json_has_the_recipe_and_every_logged_number(mwactl_cli, write_run, tmp_path: Path):
    write_run()
    document = mwactl_cli("runs", "show", "coco", "--json", "--curves", tmp_path / "a.png").json
    assert (document["schema"], document["recipe"]["data"]["name"]) == (1, "coco")
    assert [each["loss"] for each in document["steps_logged"]] == [5.0, 2.5]
    assert [each["rsum"] for each in document["validations"]] == [410.0, 402.5]
    with Image.open(document["curves"]) as picture:
        assert picture.format == "PNG"


def test_a_log_with_half_a_line_is_shown_with_a_warning(mwactl_cli, write_run):
    with (write_run(events=EVENTS[:4]) / "log.jsonl").open("a") as log:
        log.write('{"event": "step", "step": 12')
    result = mwactl_cli("runs", "show", RUN)
    assert result.code == 0
    assert "warning: the log has 1 line that cannot be read" in result.stderr


def test_the_error_of_a_failed_run_is_shown(mwactl_cli, write_run):
    folder = write_run(events=[*EVENTS[:3], {"event": "failed", "error": "the loss became nan at step 12"}])
    result = mwactl_cli("runs", "show", RUN)
    assert result.stdout.startswith(f"{RUN}: failed\nerror\tthe loss became nan at step 12\n")
    assert result.stderr == f"next: mwactl train {folder}/recipe.yaml\n"


def test_a_run_that_is_not_there_exits_3_and_an_unclear_name_2(mwactl_cli, write_run):
    absent = mwactl_cli("runs", "show", "coco")
    assert (absent.code, absent.stdout) == (3, "")
    assert "fix: mwactl runs list" in absent.stderr
    write_run("coco-1a2b3c4d")
    write_run("coco-5e6f7a8b")
    unclear = mwactl_cli("runs", "show", "coco")
    assert (unclear.code, unclear.stdout) == (2, "")
    assert len(unclear.stderr.splitlines()) <= 4


def test_curves_that_cannot_be_written_are_an_error(mwactl_cli, write_run, tmp_path: Path):
    write_run()
    (tmp_path / "file").write_bytes(b"")
    result = mwactl_cli("runs", "show", RUN, "--curves", tmp_path / "file" / "curves.png")
    assert (result.code, result.stdout) == (2, "")
    assert "this place cannot be written to" in result.stderr


def test_rm_asks_for_yes_and_removes_the_folder(mwactl_cli, write_run):
    folder = write_run()
    unasked = mwactl_cli("runs", "rm", RUN)
    assert unasked.code == 2
    assert f"fix: mwactl runs rm {RUN} --yes" in unasked.stderr
    assert mwactl_cli("runs", "rm", RUN, "--dry-run").stdout == f"would remove {folder}\n"
    assert folder.is_dir()
    assert mwactl_cli("runs", "rm", RUN, "--yes").stdout == f"removed {folder}\n"
    assert list(runs_path().iterdir()) == []


def test_rm_takes_names_alone_and_no_run_that_is_running(mwactl_cli, write_run):
    folder = write_run()
    by_folder = mwactl_cli("runs", "rm", folder, "--yes")
    assert (by_folder.code, folder.is_dir()) == (2, True)
    with FileLock(folder / "lock"):
        running = mwactl_cli("runs", "rm", RUN, "--yes")
    assert (running.code, folder.is_dir()) == (6, True)
    assert "this run is running; nothing was removed" in running.stderr


def test_the_shell_completes_runs(write_run):
    assert complete_run("") == []
    write_run("coco-1a2b3c4d")
    write_run("flickr-1a2b3c4d")
    assert complete_run("f") == ["flickr-1a2b3c4d"]


def test_the_command_that_show_prints_finishes_an_interrupted_run(mwactl_cli, tiny_recipe: Path, monkeypatch):
    save = checkpoint.save

    def save_and_stop(*arguments, **options) -> None:
        save(*arguments, **options)
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        assert mwactl_cli("train", tiny_recipe).code == 130
    [interrupted] = mwactl_cli("runs", "list", "--json").json["runs"]
    assert (interrupted["state"], interrupted["steps"], interrupted["total_steps"]) == ("interrupted", 3, 6)
    shown = mwactl_cli("runs", "show", "tiny")
    assert shown.stdout.startswith(f"{interrupted['run']}: interrupted (resumable)\n")
    command = shown.stderr.removeprefix("next: mwactl ")
    assert command.endswith(" --resume\n")

    resumed = mwactl_cli(*shlex.split(command))
    assert resumed.code == 0, resumed.stderr
    assert "resumed from the checkpoint" in resumed.stderr
    [finished] = mwactl_cli("runs", "list", "--json").json["runs"]
    assert (finished["run"], finished["state"], finished["resume"]) == (interrupted["run"], "finished", None)
    assert finished["adapter"] == "tiny-mwa@2"
    assert (Path(finished["folder"]) / "curves.png").is_file()
    assert mwactl_cli("runs", "show", "tiny", "--json").json["starts"] == [0, 3]


def test_a_run_that_failed_says_why_and_who_is_told_makes_no_other_run(mwactl_cli, tiny_recipe: Path, monkeypatch):
    pytest.importorskip("tensorboard")

    def full_disk(*_: Any, **__: Any) -> None:
        raise ResourceError("the disk is full", fix="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full_disk)
        assert mwactl_cli("train", tiny_recipe).code == 6
    failed = mwactl_cli("runs", "show", "tiny").stdout.splitlines()
    assert failed[0].endswith(": failed")
    assert failed[1] == "error\tthe disk is full; fix: free some space"

    assert mwactl_cli("train", tiny_recipe, "train.track=[tensorboard]", "-q").code == 0
    [run] = mwactl_cli("runs", "list", "--json").json["runs"]
    assert run["state"] == "finished"
    assert [path.name for path in (Path(run["folder"]) / "tensorboard").glob("events.*")]
