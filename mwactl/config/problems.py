"""The mistakes of a recipe, gathered while it is read, so that all of them are reported at once and in order."""

from __future__ import annotations

from typing import NamedTuple

from mwactl.errors import MwactlError, RecipeError, UsageError


class Place(NamedTuple):
    """Where something of a recipe was written.

    Args:
        layer: What lies over what: 0 for an override, 1 for the recipe, 2 for the one that it extends, and so on.
        line: The line in the file, counted from 1; 0 for the file as a whole.
        text: How the place is named in a message.
    """

    layer: int
    line: int
    text: str

    @classmethod
    def in_file(cls, source: str, line: int = 0, *, layer: int = 1) -> Place:
        """A line of a file, or (line 0) the whole file."""
        return cls(layer, line, f"{source} line {line}" if line else source)

    @classmethod
    def in_override(cls, override: str) -> Place:
        """An `option=value` argument."""
        return cls(0, 0, f'override "{override}"')

    @property
    def order(self) -> tuple[bool, int, int]:
        """What a list of problems is sorted by: file by file, line by line, then the overrides."""
        return self.layer == 0, self.layer, self.line


class Problems:
    """A growing list of mistakes."""

    def __init__(self) -> None:
        """None so far."""
        self._found: list[tuple[Place, MwactlError]] = []

    def __len__(self) -> int:
        """How many there are so far."""
        return len(self._found)

    def add(self, place: Place, what: str, *, why: str | None = None, fix: str | None = None) -> None:
        """Note one mistake."""
        self._found.append((place, UsageError(what, where=place.text, why=why, fix=fix)))

    def raise_if_any(self) -> None:
        """Raise one `RecipeError` with every mistake, in the order of the places; do nothing where there is none."""
        if self._found:
            raise RecipeError([error for _, error in sorted(self._found, key=lambda found: found[0].order)])
