"""Run `mwactl ARGUMENTS…` and send this process a signal right after the checkpoint of a step was saved.

python kill_driver.py STEP SIGNAL ARGUMENTS…
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mwactl.cli import main
from mwactl.train import checkpoint
from mwactl.train.checkpoint import Checkpoint

step, number = int(sys.argv[1]), int(sys.argv[2])
save = checkpoint.save


def save_and_signal(folder: Path, state: Checkpoint, *, identity: str) -> None:
    save(folder, state, identity=identity)
    if state.position.step == step:
        checkpoint.save = save
        os.kill(os.getpid(), number)


checkpoint.save = save_and_signal
sys.argv = ["mwactl", *sys.argv[3:]]
main()
