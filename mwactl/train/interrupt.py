"""Ctrl-C and SIGTERM while training: the step in work is finished first."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from mwactl.errors import Interrupted


class StopAtAStep:
    """While it is entered, the first Ctrl-C or SIGTERM only sets `asked`; a second one stops at once.

    Args:
        resume_command: What to type afterwards.

    Raises:
        Interrupted: At the second signal, from wherever the program is.
    """

    def __init__(self, resume_command: str) -> None:
        self.asked = False
        self._fix = resume_command or None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopAtAStep:
        """Take the two signals over."""
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise Interrupted("stopped at once; the last checkpoint stands", fix=self._fix)
        self.asked = True
