"""A kill at any moment loses nothing finished, and the same command then gives what it would have given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("search_crash_driver.py")


def drive(*arguments: str | Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", DRIVER, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("scenario", "least_calls"), [("embed", 40), ("index", 10), ("delete", 5), ("compact", 20)])
def test_a_kill_at_any_system_call_loses_nothing_finished_and_is_made_good_by_a_rerun(
    memory_disk: Path, scenario: str, least_calls: int
):
    report = drive(memory_disk, scenario)
    assert report["failures"] == []
    assert report["calls"] >= least_calls
    assert report["kills"] >= 2 * report["calls"]


def test_the_kills_catch_a_manifest_that_is_written_in_place(memory_disk: Path):
    report = drive(memory_disk, "embed", "sabotage")
    assert any("manifest" in failure for failure in report["failures"])
