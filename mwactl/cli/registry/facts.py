"""How facts and times look."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from mwactl.cli.output import out

_WIDEST_CELL = 32
_LABEL = 10
"""Columns of a label and the space after it: what belongs to it begins below each other."""


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


def clipped(text: str, widest: int = _WIDEST_CELL) -> str:
    """A cell of a table that leaves room for the others; whole where a program may read it."""
    if not sys.stdout.isatty() or len(text) <= widest:
        return text
    mark = "…" if spellable("…") else "..."
    return text[: widest - len(mark)] + mark


def line(text: str) -> None:
    """A line of the answer that no terminal has to wrap."""
    out.text(clipped(text, width()))


def paragraph(label: str, texts: Iterable[str], lines: int = 3) -> None:
    """A label and what belongs to it, on a few lines of a terminal's width; what is more is left out."""
    room = width() - _LABEL
    mark = " …" if spellable("…") else " ..."
    wrapped = textwrap.wrap(", ".join(texts), room, max_lines=lines, placeholder=mark, break_on_hyphens=False)
    for number, each in enumerate(wrapped):
        out.text(("" if number else label).ljust(_LABEL) + each)


def width() -> int:
    """Columns of the terminal."""
    return max(20, shutil.get_terminal_size().columns)


def spellable(text: str) -> bool:
    """Whether the encoding of the answer has these signs."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
        out.text(f"{indent}{name}  {plain(value)}")


def plain(value: Any) -> str:
    """A value without anything in it, as people write it."""
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return f"{value:,}" if type(value) is int else str(value)
