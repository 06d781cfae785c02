"""What long work tells about itself: the library reports, whoever listens decides how it looks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """A listener for one piece of long work with a known number of steps."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """`steps` more are done; `note` is a short text such as the current loss."""

    def close(self) -> None:
        """The work ended (also after an error)."""


class Reporter(Protocol):
    """Where the library sends what a user may want to see while it works."""

    def info(self, message: str) -> None:
        """A line of what is happening."""

    def warn(self, message: str) -> None:
        """A line about something the user should know."""

    def progress(self, label: str, total: int, *, done: int = 0) -> Progress:
        """Announce long work of `total` steps, `done` of which were done before."""


class _SilentProgress:
    def advance(self, steps: int = 1, *, note: str = "") -> None:
        pass

    def close(self) -> None:
        pass


class Silent:
    """A reporter that says nothing: the default of the Python API."""

    def info(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""

    def progress(self, label: str, total: int, *, done: int = 0) -> Progress:
        """Say nothing, for as long as it takes."""
        return _SilentProgress()


def track(
    items: Iterable[T], reporter: Reporter, label: str, total: int, *, size: Callable[[T], int] = lambda _: 1
) -> Generator[T, None, None]:
    """Iterate over `items` and report each; `size` says how many steps an item is worth."""
    progress = reporter.progress(label, total)
    try:
        for item in items:
            yield item
            progress.advance(size(item))
    finally:
        progress.close()
