"""How things look. stdout is the answer, stderr is everything else; `--json` prints exactly one JSON document.

There is one `Output` a process (`out`). Commands hand it data; it decides, by mode, what is printed:

* human (default): tables and text; plain tab-separated rows when stdout is not a terminal;
* json: `answer()` prints its document, nothing else goes to stdout;
* quiet: `answer()` prints the identifier alone, and stderr carries warnings and errors only.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

from mwactl.errors import ExitCode, Interrupted, MwactlError, RecipeError, ResourceError
from mwactl.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_PROGRESS_SECONDS = 30.0
#: All but the tab, which separates columns, and the line end, which an error's own text may hold.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Mode(Enum):
    """Who reads stdout: a person, a program, or a shell variable."""

    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        key: The row's key.
        title: The heading.
        right: Align to the right (numbers).
        format: How a value is written.
        keep: Never dropped when the terminal is narrow.
    """

    key: str
    title: str
    right: bool = False
    format: Callable[[Any], str] = lambda value: "" if value is None else str(value)
    keep: bool = False


class Output:
    """The one place that prints."""

    def __init__(self) -> None:
        self.mode = Mode.HUMAN
        self.debug = False

    # -- the answer (stdout) ---------------------------------------------------------------------------------

    def answer(self, document: dict[str, Any], *, human: Callable[[], None], identifier: str) -> None:
        """Print a command's answer, once.

        Args:
            document: The JSON document; it gets `schema` from the caller, keys never change meaning.
            human: Prints the same for a person (with `text` and `table`).
            identifier: What `-q` prints.
        """
        try:
            if self.mode is Mode.JSON:
                sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            elif self.mode is Mode.QUIET:
                sys.stdout.write(identifier + "\n")
            else:
                human()
            sys.stdout.flush()
        except BrokenPipeError:
            _discard(sys.stdout)  # `mwactl … | head`: the reader has enough

    def text(self, line: str = "") -> None:
        """A line of a human answer."""
        sys.stdout.write(_spellable(line, sys.stdout) + "\n")

    def table(self, rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> None:
        """Rows of a human answer: aligned on a terminal (columns are dropped, never wrapped), TSV in a pipe."""
        cells = [[column.format(row.get(column.key)) for column in columns] for row in rows]
        if not sys.stdout.isatty():
            for row in cells:
                self.text("\t".join(row))
            return
        shown = _columns_that_fit(cells, columns, _terminal_width())
        widths = {i: max(len(columns[i].title), *(len(row[i]) for row in cells), 0) for i in shown}
        for row in [[column.title for column in columns], *cells]:
            pieces = [row[i].rjust(widths[i]) if columns[i].right else row[i].ljust(widths[i]) for i in shown]
            self.text("  ".join(pieces).rstrip())

    # -- everything else (stderr) ----------------------------------------------------------------------------

    def info(self, message: str) -> None:
        """A line of what is happening."""
        if self.mode is not Mode.QUIET:
            self._say(message)

    def warn(self, message: str) -> None:
        """A line about something the user should know."""
        self._say(f"warning: {message}")

    def hint(self, command: str) -> None:
        """The next command to type."""
        if self.mode is Mode.HUMAN:
            self._say(f"next: {command}")

    def error(self, error: MwactlError) -> None:
        """What, where, why and the next command, in at most four lines a problem."""
        problems = error.problems if isinstance(error, RecipeError) else [error]
        for problem in problems:
            self._say(f"error: {problem.what}" + (f"  ({problem.where})" if problem.where else ""))
            if problem.why:
                self._say(f"  {problem.why}")
            if problem.fix:
                self._say(f"  fix: {problem.fix}")
        if isinstance(error, RecipeError):
            self._say(error.what)

    def interrupted(self, stop: Interrupted) -> None:
        """What was saved, and the command that goes on."""
        self._say(stop.message)
        if stop.fix:
            self._say(f"  go on: {stop.fix}")

    def bug(self, error: Exception) -> None:
        """An error that is ours."""
        self._say(f"error: this is a bug in mwactl: {type(error).__name__}: {error}")
        self._say("  please report it with the command you typed and the traceback that --debug prints")

    def progress(self, label: str, total: int, *, done: int = 0) -> Progress:
        """Show long work: one live line with an ETA on a terminal, a line every 30 s otherwise."""
        if self.mode is Mode.QUIET:
            return _NoProgress()
        if sys.stderr.isatty():
            return _LiveProgress(_stderr_console(), label, total, done)
        return _PlainProgress(self._say, label, total, done)

    def _say(self, line: str) -> None:
        try:
            sys.stderr.write(_spellable(line, sys.stderr) + "\n")
            sys.stderr.flush()
        except BrokenPipeError:
            _discard(sys.stderr)  # hours of training do not end because nobody listens any more


class _NoProgress:
    def advance(self, steps: int = 1, *, note: str = "") -> None:
        pass

    def close(self) -> None:
        pass


class _PlainProgress:
    """A line every 30 seconds, for logs."""

    def __init__(self, say: Callable[[str], None], label: str, total: int, done: int) -> None:
        self._say, self._label, self._total, self._done = say, label, total, done
        self._first, self._start = done, time.monotonic()
        self._said = self._start

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._said < _PLAIN_PROGRESS_SECONDS:
            return
        self._said = now
        rate = (self._done - self._first) / (now - self._start)
        eta = duration((self._total - self._done) / rate) if rate else "?"
        self._say(f"{self._label}  {self._done:,}/{self._total:,}  {note}  eta {eta}".replace("    ", "  "))

    def close(self) -> None:
        pass


class _LiveProgress:
    """One line that rich keeps up to date."""

    def __init__(self, console: Console, label: str, total: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(
            TextColumn("  {task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TextColumn("eta"), TimeRemainingColumn(compact=True),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._rich.add_task(label, total=total, completed=done, note="")
        self._rich.start()

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        self._rich.update(self._task, advance=steps, note=note)

    def close(self) -> None:
        self._rich.stop()


def duration(seconds: float) -> str:
    """A length of time for people: `41 s`, `12 min 5 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(size_bytes: int) -> str:
    """A number of bytes for people, in powers of 1000: `26.1 MB`."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    units = ("kB", "MB", "GB", "TB")
    power = next((power for power in range(1, len(units)) if size_bytes < 1000 ** (power + 1)), len(units))
    return f"{size_bytes / 1000**power:.1f} {units[power - 1]}"


def run_guarded(action: Callable[[], None], out: Output) -> int:
    """Run a command; show what went wrong; return the exit code."""
    try:
        action()
    except MwactlError as error:
        if out.debug:
            traceback.print_exc()
        out.error(error)
        return int(error.exit_code)
    except Interrupted as stop:
        out.interrupted(stop)
        return int(stop.exit_code)
    except OSError as error:
        if out.debug:
            traceback.print_exc()
        if error.errno is None or error.filename is None:
            out.bug(error)
            return int(ExitCode.FAILED)
        fix = "see that it is there and yours to read, or choose another place (MWACTL_HOME)"
        refused = ResourceError("the system refused a file", where=str(error.filename), why=error.strerror, fix=fix)
        out.error(refused)
        return int(refused.exit_code)
    except Exception as error:
        if out.debug:
            traceback.print_exc()
        out.bug(error)
        return int(ExitCode.FAILED)
    return int(ExitCode.DONE)


def _discard(stream: TextIO) -> None:
    """Let what is left of a stream without a reader go nowhere, also what is written at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _stderr_console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _columns_that_fit(cells: Sequence[Sequence[str]], columns: Sequence[Column], width: int) -> list[int]:
    """The columns to show: the rightmost ones that may be dropped go first."""
    shown = list(range(len(columns)))

    def total() -> int:
        return sum(max([len(columns[i].title), *(len(row[i]) for row in cells)]) + 2 for i in shown)

    while total() > width + 2:
        droppable = [i for i in shown if not columns[i].keep]
        if not droppable:
            break
        shown.remove(droppable[-1])
    return shown


def _spellable(line: str, stream: Any) -> str:
    """The line without control characters, and in ASCII where the stream's encoding lacks a sign.

    Names, captions and facts may come from anywhere: an escape sequence in one must not reach the terminal.
    """
    line = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", line)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        for sign, ascii_form in (("→", "->"), ("×", "x"), ("·", "-"), ("✓", "ok"), ("…", "..."), ("±", "+/-")):
            line = line.replace(sign, ascii_form)
        return line.encode(encoding, "replace").decode(encoding)
    return line


out = Output()
