"""The error tree: what went wrong, where, why, and the next command; one exit code a class.

Only these errors are shown to users as errors. Anything else that escapes is a bug and is reported as one.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process says to the shell (`mwactl help exit-codes` prints this table)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    INCOMPATIBLE = 4
    VERIFICATION = 5
    RESOURCES = 6
    INTERRUPTED = 130


EXIT_CODE_MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "wrong usage, or a recipe with mistakes; nothing was started",
    ExitCode.NOT_FOUND: "not found: an adapter, a backbone, a data set, a file",
    ExitCode.INCOMPATIBLE: "incompatible: the adapter does not fit this backbone or this version",
    ExitCode.VERIFICATION: "a check failed: corrupt bytes, a result beyond its bounds, an untrue zero-shot claim",
    ExitCode.RESOURCES: "no space, no memory, or the registry is locked by another process",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C or SIGTERM); what was finished is saved",
}


class MwactlError(Exception):
    """An error a user can act on.

    Args:
        what: One line: what failed.
        where: The file, line, reference or tensor concerned.
        why: The reason, in one line.
        fix: The next command to type, or the change to make.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        """All the parts on one line, for logs and tests."""
        parts = [self.what, self.where and f"in {self.where}", self.why, self.fix and f"fix: {self.fix}"]
        return "; ".join(part for part in parts if part)


class UsageError(MwactlError):
    """An argument or an option has a value that cannot be used."""

    exit_code = ExitCode.USAGE


class RecipeError(MwactlError):
    """A recipe has one or more mistakes; `problems` lists them all."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: list[MwactlError]) -> None:
        if not problems:
            raise ValueError("a RecipeError needs at least one problem")
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(f"{count} in the recipe; nothing was started")
        self.problems = problems

    def __str__(self) -> str:
        """The count and every problem."""
        return "; ".join([self.what, *map(str, self.problems)])


class NotFoundError(MwactlError):
    """A named thing does not exist."""

    exit_code = ExitCode.NOT_FOUND


class IncompatibleError(MwactlError):
    """Two things do not fit: adapter and backbone, file and version."""

    exit_code = ExitCode.INCOMPATIBLE


class VerificationError(MwactlError):
    """Bytes are not what their digest says, or a gate was not passed."""

    exit_code = ExitCode.VERIFICATION


class ResourceError(MwactlError):
    """No space, no memory, or a lock that could not be had."""

    exit_code = ExitCode.RESOURCES


class DataError(MwactlError):
    """A data set has pictures or captions that cannot be used."""

    exit_code = ExitCode.FAILED


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM arrived. Not an `Exception`, so that no library swallows it on the way out.

    Args:
        message: What was saved, in one line.
        fix: The command that goes on from there.
    """

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str = "interrupted", *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
