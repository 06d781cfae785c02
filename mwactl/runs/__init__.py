"""What training leaves in a run's folder, read again: its state, its history, its curves."""

from mwactl.runs.find import all_runs, find_run
from mwactl.runs.run import Run, State, read_run

__all__ = ["Run", "State", "all_runs", "find_run", "read_run"]
