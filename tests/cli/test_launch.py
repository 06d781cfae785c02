"""Real processes: `mwactl train --nproc 2`, started by torch's launcher."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mwactl.home import runs_path
from mwactl.train import checkpoint

LONG = ["train.epochs=100000", "data.val_split=null"]
#: Every Python process of the run notes who it is, before it does anything else.
NOTE = """\
import os
name = os.environ.get("RANK", "launcher")
open(f"{os.environ['NOTES']}/{name}", "w").write(str(os.getpid()))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(*arguments): `mwactl train …` as a process of its own; whatever is left of it is killed in the end."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOTE)
    paths = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "NOTES": str(notes)}

    def run(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "mwactl", "train", *map(str, arguments)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    yield run
    for note in notes.iterdir():
        with suppress(ProcessLookupError):
            os.kill(int(note.read_text()), signal.SIGKILL)


@pytest.fixture
def pid(tmp_path: Path) -> Callable[[str], int]:
    return lambda who: int((tmp_path / "notes" / who).read_text())


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def saved() -> bool:
    return any(runs_path().glob(f"*/{checkpoint.FILE_NAME}"))


def said(stderr: str) -> list[str]:
    """The lines but for progress, which a slow machine reports every 30 seconds."""
    return [line for line in stderr.splitlines() if not line.startswith("training ")]


def gone(number: int) -> bool:
    """Whether a process has ended; one whose parent never asked is still listed."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{number}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_process_that_is_killed_ends_all_with_one_message_and_leaves_a_checkpoint(start, pid, tiny_recipe: Path):
    run = start(tiny_recipe, *LONG, "--nproc", 2)
    until(saved)
    os.kill(pid("1"), signal.SIGKILL)
    stdout, stderr = run.communicate(timeout=100)
    assert (run.returncode, stdout) == (1, "")
    what, why, fix = said(stderr)
    assert what == "error: process 1 of 2 was killed by SIGKILL"
    assert "the others are stopped" in why
    command = f"mwactl train {tiny_recipe} {' '.join(LONG)} --nproc 2 --resume"
    assert fix == f"  fix: {command}   (from the last checkpoint)"
    assert gone(pid("0"))
    assert saved()


def test_ctrl_c_saves_once_and_ends_all(start, pid, tiny_recipe: Path):
    run = start(tiny_recipe, *LONG, "--nproc", 2)
    until(saved)
    run.send_signal(signal.SIGINT)
    stdout, stderr = run.communicate(timeout=100)
    assert (run.returncode, stdout) == (130, "")
    stopped, go_on = said(stderr)
    assert stopped.startswith("interrupted at step ")
    assert stopped.endswith(" of 300,000; the checkpoint is saved")
    assert go_on == f"  go on: mwactl train {tiny_recipe} {' '.join(LONG)} --nproc 2 --resume"
    assert gone(pid("0"))
    assert gone(pid("1"))
    assert saved()


def test_a_machine_that_waits_for_machine_0_says_so_once_and_ends_at_ctrl_c(start, tiny_recipe: Path):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{taken.getsockname()[1]}"
        run = start(tiny_recipe, "--nnodes", 2, "--node-rank", 1, "--rendezvous", meet)
        assert run.stderr.readline() == f"waiting for machine 0 at {meet}\n"
        run.send_signal(signal.SIGINT)
        stdout, stderr = run.communicate(timeout=20)
    assert (run.returncode, stdout, stderr) == (130, "", "interrupted; nothing was half-written\n")
