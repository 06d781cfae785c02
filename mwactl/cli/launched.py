"""A process among several that train: it leaves a report of how it ended, and the reports become one message."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from mwactl.cli.output import Mode, out
from mwactl.errors import ExitCode, Interrupted, MwactlError

#: The environment variable that names the folder of the reports.
REPORTS = "MWACTL_LAUNCH_REPORTS"
#: And the one with the command that started them all.
COMMAND = "MWACTL_LAUNCH_COMMAND"
_ORPHAN_SECONDS = 30.0
#: Errors of what was asked for: the same in whichever process, and nothing has begun that could go on.
_OF_NO_PROCESS = {ExitCode.USAGE, ExitCode.NOT_FOUND, ExitCode.INCOMPATIBLE}


@dataclass(frozen=True)
class Report:
    """How a process ended.

    Args:
        rank: Which one.
        code: Its exit code.
        what: As of `MwactlError`, or the message of `Interrupted`; so are the others.
        where: The file, line, reference or tensor.
        why: The reason.
        fix: The next command.
        echo: Whether it failed because another process did.
        time_ns: When.
    """

    rank: int
    code: int
    what: str = ""
    where: str | None = None
    why: str | None = None
    fix: str | None = None
    echo: bool = False
    time_ns: int = 0


def is_first() -> bool:
    """Whether this process speaks for all: it is process 0, or there are no others."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def typed_command(own: str) -> str:
    """The command that the user typed: this process's own, or its launcher's."""
    return os.environ.get(COMMAND, own)


@contextmanager
def one_of_several() -> Iterator[None]:
    """In each of several processes: only the first speaks, and what goes wrong is left for the launcher to tell.

    Where the user's own torchrun started them there is no such launcher, and each says itself why it ends.
    """
    if not is_first():
        out.mode = Mode.QUIET
    if (folder := os.environ.get(REPORTS)) is None:
        yield
        return
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        yield
        report = Report(int(os.environ["RANK"]), ExitCode.DONE)
    except (Exception, Interrupted) as error:
        if out.debug:
            traceback.print_exc()
        report = _report_of(error)
    path = Path(folder) / f"{report.rank}.json"
    with suppress(OSError):  # the launcher is gone, and its folder with it
        path.with_suffix(".part").write_text(json.dumps(asdict(report)), encoding="utf-8")
        path.with_suffix(".part").rename(path)
    if report.code != ExitCode.DONE:
        sys.exit(report.code)


def read_reports(folder: Path) -> list[Report]:
    """What the processes of this machine have left, by rank."""
    found = [Report(**json.loads(path.read_text("utf-8"))) for path in folder.glob("*.json")]
    return sorted(found, key=lambda report: report.rank)


class Ending:
    """How a run of several processes ended before its end.

    Args:
        reports: Of the processes that could still leave one.
        killed: Rank -> the signal that ended it.
        count: How many processes there were.
        resume_command: Goes on from the last checkpoint.
    """

    def __init__(
        self, reports: Sequence[Report], killed: Mapping[int, int], *, count: int, resume_command: str
    ) -> None:
        self._interrupted = [report for report in reports if report.code == ExitCode.INTERRUPTED]
        self._done = [report for report in reports if report.code == ExitCode.DONE]
        failed = [report for report in reports if report not in self._interrupted and report not in self._done]
        self._failed = sorted(failed, key=lambda report: (report.echo, report.time_ns))
        self._killed = killed
        self._count = count
        self._resume = resume_command

    def tell_interruption(self) -> None:
        """After Ctrl-C or SIGTERM; a run that was done all the same is no interruption.

        Raises:
            Interrupted: What the first process says.
            MwactlError: A process failed while it was to stop.
        """
        if self._done:
            return
        if self._failed and not self._failed[0].echo:
            raise self._failure(self._failed[0])
        if self._interrupted:
            raise Interrupted(self._interrupted[0].what, fix=self._interrupted[0].fix or self._resume)
        raise Interrupted("stopped at once; the last checkpoint stands", fix=self._resume)

    def tell_failure(self) -> NoReturn:
        """After a process has failed, or was killed.

        Raises:
            MwactlError: What the one that failed first says, with its exit code.
            Interrupted: They were stopped by a signal that the launcher did not get.
        """
        if self._failed and not self._failed[0].echo:
            raise self._failure(self._failed[0])
        for rank, number in self._killed.items():
            raise MwactlError(
                f"process {rank} of {self._count} was killed by {signal.Signals(number).name}",
                why="it could say nothing itself (a machine that is out of memory does that); the others are stopped",
                fix=f"{self._resume}   (from the last checkpoint)",
            )
        if self._interrupted:
            raise Interrupted(self._interrupted[0].what, fix=self._interrupted[0].fix or self._resume)
        if self._failed:
            raise self._failure(self._failed[0])
        raise MwactlError("the processes ended without a word", fix=self._resume)

    def _failure(self, report: Report) -> MwactlError:
        about_the_run = report.code not in _OF_NO_PROCESS
        what = f"process {report.rank} of {self._count}: {report.what}" if about_the_run else report.what
        fix = report.fix or (self._resume if about_the_run else None)
        error = MwactlError(what, where=report.where, why=report.why, fix=fix)
        error.exit_code = ExitCode(report.code)
        return error


def _report_of(error: BaseException) -> Report:
    from mwactl.train.distributed import PeerLostError
    from mwactl.train.exchange import OutOfMemoryElsewhereError

    rank, now = int(os.environ["RANK"]), time.time_ns()
    if isinstance(error, Interrupted):
        return Report(rank, ExitCode.INTERRUPTED, error.message, fix=error.fix, time_ns=now)
    if isinstance(error, MwactlError):
        echo = isinstance(error, PeerLostError) or isinstance(error.__cause__, OutOfMemoryElsewhereError)
        return Report(rank, error.exit_code, error.what, error.where, error.why, error.fix, echo, now)
    what = f"this is a bug in mwactl: {type(error).__name__}: {error}"
    why = "please report it with the command you typed and the traceback that --debug prints"
    return Report(rank, ExitCode.FAILED, what, why=why, time_ns=now)


def _end_with_parent(parent: int) -> None:
    """Stop as after SIGTERM when the launcher is gone, however it went: nobody else would end this process."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(ExitCode.FAILED)
