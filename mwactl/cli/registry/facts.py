"""How facts and times look."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from mwactl.cli.output import out

_WIDEST_CELL = 32


def when(created: str | None) -> str:
    """Relative on a terminal, ISO where a program may read it."""
    if created is None or not sys.stdout.isatty():
        return created or ""
    return _ago((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())


def _ago(seconds: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit} ago"
    return "just now"


def counted(count: int, noun: str) -> str:
    """`1 blob`, `31 blobs`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def words(tags: dict[str, str]) -> str:
    """Tags as they were typed, on one line."""
    return ", ".join(f"{key}={value}" for key, value in tags.items())


def clipped(text: str) -> str:
    """A cell of a table that leaves room for the others; whole where a program may read it."""
    whole = not sys.stdout.isatty() or len(text) <= _WIDEST_CELL
    return text if whole else f"{text[: _WIDEST_CELL - 1]}…"


def print_fact(name: str, value: Any, indent: str = "") -> None:
    """A fact and what is in it, a line each: whatever is in a manifest can be read, also what a plugin put there."""
    if isinstance(value, dict) and value:
        out.text(f"{indent}{name}")
        for key, item in value.items():
            print_fact(key, item, indent + "  ")
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value, 1):
            print_fact(f"{name} {number}", item, indent)
    else:
        out.text(f"{indent}{name}  {_plain(value)}")


def _plain(value: Any) -> str:
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if type(value) is int else str(value)
