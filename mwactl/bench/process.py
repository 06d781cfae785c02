"""The other end of a variant's process."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any, Protocol

from mwactl.bench.setup import Setup, UnavailableError
from mwactl.bench.worker import serve
from mwactl.errors import MwactlError, ResourceError

_LAST_WORDS_SECONDS = 10


class Remote(Protocol):
    """A variant somewhere."""

    def call(self, command: str, *arguments: Any) -> Any:
        """Carry out one of the worker's commands.

        Raises:
            UnavailableError: The variant cannot be measured here.
            MwactlError: Whatever the command raises.
        """

    def close(self) -> None:
        """It is not needed any more."""


class VariantProcess:
    """A variant in a process of its own, started at once."""

    def __init__(self, variant: str, setup: Setup, batch_file: Path) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # a forked process could not use a GPU, nor report its own memory
        self._variant = variant
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, variant, setup, batch_file), daemon=True)
        self._process.start()
        other.close()

    def call(self, command: str, *arguments: Any) -> Any:
        """As `Remote.call`.

        Raises:
            ResourceError: The process is gone.
        """
        try:
            self._connection.send((command, arguments))
            kind, result = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.join(_LAST_WORDS_SECONDS)
            raise ResourceError(
                f"the process of `{self._variant}` ended",
                why=f"exit code {self._process.exitcode} (-9 is what a system without memory does)",
                fix="--batch-size smaller, or fewer --variants",
            ) from error
        if kind == "done":
            return result
        if kind == "unavailable":
            raise UnavailableError(result)
        if kind == "error":
            error_class, what, rest = result
            raise error_class(what, **rest)
        raise MwactlError(f"`{self._variant}` failed", why=result, fix="--variants without it")

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join(_LAST_WORDS_SECONDS)
