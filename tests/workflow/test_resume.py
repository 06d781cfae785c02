"""A run that dies and is resumed publishes what a run that did not die publishes: the same bytes, the same digest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mwactl.adapter.serialise import from_bytes
from mwactl.config import load_recipe
from mwactl.home import runs_path
from mwactl.registry import Registry
from mwactl.train import checkpoint
from mwactl.workflow.train import train_recipe

DRIVER = Path(__file__).with_name("kill_driver.py")
EVERY = "train.checkpoint_every=4"  # of 6 steps, 3 an epoch: a checkpoint in the middle of the second epoch


@pytest.fixture
def other_home(tmp_path: Path, add_data, tiny_pictures: Path, monkeypatch: pytest.MonkeyPatch):
    """From now on, a second home with the same data set."""

    def move() -> None:
        monkeypatch.setenv("MWACTL_HOME", str(tmp_path / "other-home"))
        add_data("tiny", tiny_pictures)

    return move


def stopped_at(step: int, number: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", DRIVER, str(step), str(number), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_is_stopped_and_resumed_publishes_the_same_digest(tiny_recipe: Path, other_home, mwactl_cli, number):
    whole = train_recipe(Registry.default(), load_recipe(str(tiny_recipe), [EVERY])).entry
    assert whole.manifest["train"]["recipe"]["method"]["mwa"]["dropout"] > 0
    assert whole.manifest["train"]["recipe"]["data"]["augment"] == "crop"

    other_home()
    stopped = stopped_at(4, number, "train", str(tiny_recipe), EVERY)
    if number == signal.SIGKILL:
        assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    else:
        assert stopped.returncode == 130, stopped.stderr
        assert f"go on: mwactl train {tiny_recipe} {EVERY} --resume" in stopped.stderr
        assert "interrupted at step 4 of 6; the checkpoint is saved" in stopped.stderr
    assert stopped.stdout == ""
    assert [entry.manifest["train"] for entry in Registry.default().entries()] == [None]
    [folder] = runs_path().iterdir()
    path = folder / checkpoint.FILE_NAME
    _, facts = from_bytes(path.read_bytes(), where=str(path))
    assert facts["position"]["step"] == 4

    resumed = mwactl_cli("train", tiny_recipe, EVERY, "--resume", "--json")
    assert resumed.code == 0, resumed.stderr
    assert resumed.json["digest"] == whole.digest
    entry = Registry.default().resolve("tiny-mwa")
    assert entry.manifest["tensors"]["digest"] == whole.manifest["tensors"]["digest"]
    assert entry.manifest == whole.manifest
