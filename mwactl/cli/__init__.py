"""The command line: Typer, arguments, and how things look. Nothing is computed here, and torch is not imported."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from mwactl.cli.app import app
from mwactl.cli.output import out, run_guarded
from mwactl.errors import Interrupted


def main() -> None:
    """The entry point of the `mwactl` command."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run_guarded(lambda: app(prog_name="mwactl"), out))  # whatever file it was started from


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted("interrupted; nothing was half-written")
