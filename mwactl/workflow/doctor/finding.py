"""One line of what the doctor says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class State(Enum):
    """How a thing is."""

    OK = "ok"
    MISSING = "missing"
    """Not here. Unless it is required, what does not need it works."""
    BROKEN = "broken"
    """Here, and it does not work."""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Args:
        name: The thing.
        state: How it is.
        detail: A version, a size, a reason: one line for a person.
        fix: The next command, where something is wrong.
        required: The main job (inject, train, evaluate, keep) needs it.
        facts: The detail for a program.
    """

    name: str
    state: State
    detail: str = ""
    fix: str | None = None
    required: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_trouble(self) -> bool:
        """Whether somebody should do something: it is broken, or required and not here."""
        return self.state is State.BROKEN or (self.required and self.state is State.MISSING)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "name": self.name, "state": self.state.value, "detail": self.detail, "fix": self.fix,
            "required": self.required, "facts": dict(self.facts),
        }  # fmt: skip


def in_one_line(error: BaseException | str) -> str:
    """An error's text on one line; of several lines the first that says something."""
    text = error if isinstance(error, str) else str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first if isinstance(error, str) else f"{type(error).__name__}: {first}".removesuffix(": ")


def gigabytes(size_bytes: float) -> str:
    """A size for people, in units of 10⁹ bytes."""
    return f"{size_bytes / 1e9:,.1f} GB"
