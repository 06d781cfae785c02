"""Fixtures every test may use: an empty home, the command line in-process, the shared data where it is."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mwactl.cli import main
from mwactl.cli.output import Mode, out


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test has its own MWACTL_HOME, and starts with the human output mode."""
    home = tmp_path / "mwactl-home"
    monkeypatch.setenv("MWACTL_HOME", str(home))
    monkeypatch.delenv("MWACTL_REGISTRY", raising=False)
    monkeypatch.delenv("MWACTL_DEBUG", raising=False)
    out.mode, out.debug = Mode.HUMAN, False
    yield home
    out.mode, out.debug = Mode.HUMAN, False


@dataclass(frozen=True)
class CliResult:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout as one JSON document."""
        return json.loads(self.stdout)


@pytest.fixture
def mwactl_cli(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., CliResult]]:
    """Run `mwactl ARGS…` in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str | Path) -> CliResult:
        out.mode, out.debug = Mode.HUMAN, False
        monkeypatch.setattr(sys, "argv", ["mwactl", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capfd.readouterr()
        code = exit_info.value.code
        return CliResult(code if isinstance(code, int) else 0, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared data (photographs, weights); the test is skipped where it is absent."""
    folder = Path(os.environ.get("MWACTL_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("the shared data is not here (set MWACTL_SHARED)")
    return folder
