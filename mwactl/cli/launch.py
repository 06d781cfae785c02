"""`mwactl train` in several processes: torch's own launcher starts them, and what went wrong in one is told once.

The launcher runs in this process, so that its log and its summary of a failure can be kept from the user: what the
processes report (`launched.py`) says more.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mwactl.cli.launched import COMMAND, REPORTS, Ending, read_reports
from mwactl.cli.output import out
from mwactl.errors import MwactlError, UsageError

#: Seconds for the processes to finish a step and save it after Ctrl-C, before they are killed.
_GRACE_SECONDS = "120"
#: How long another machine may take to get here; as long as torch's launcher waits.
_MEETING_SECONDS = 900
_PROBE_SECONDS = 2
_CPP_LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"


@dataclass(frozen=True)
class Layout:
    """Which processes there are.

    Args:
        processes: On this machine.
        machines: How many there are, each with as many processes.
        machine: The number of this one, from 0.
        rendezvous: HOST:PORT of machine 0, where all meet.
    """

    processes: int
    machines: int = 1
    machine: int = 0
    rendezvous: str | None = None

    @property
    def count(self) -> int:
        """Processes on all machines."""
        return self.processes * self.machines

    def check(self) -> None:
        """See that the options fit together.

        Raises:
            UsageError: They do not, or these are such processes already.
        """
        if self.count > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
            raise UsageError("torchrun has started the processes already", fix="leave --nproc and --nnodes out")
        if self.machines == 1 and (self.machine or self.rendezvous):
            raise UsageError("--node-rank and --rendezvous are for several machines", fix="--nnodes 2")
        if self.machines > 1 and self.rendezvous is None:
            raise UsageError("several machines need a place to meet", fix="--rendezvous HOST:PORT of machine 0")
        if self.machine >= self.machines:
            raise UsageError(f"there is no machine {self.machine} among {self.machines}", fix="machines count from 0")
        if self.rendezvous is not None:
            host, _, port = self.rendezvous.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                raise UsageError(f"--rendezvous {self.rendezvous} is not HOST:PORT", fix="--rendezvous node0:29500")

    def options(self) -> list[str]:
        """The same as options of `mwactl train`."""
        if self.machines == 1:
            return [] if self.processes == 1 else ["--nproc", str(self.processes)]
        here = ["--node-rank", str(self.machine), "--rendezvous", str(self.rendezvous)]
        return ["--nproc", str(self.processes), "--nnodes", str(self.machines), *here]

    def torchrun(self) -> list[str]:
        """The same as options of torchrun. Ranks are static: process 0, with the registry, is on machine 0."""
        if self.machines == 1:
            return ["--standalone", "--nproc-per-node", str(self.processes)]
        host, _, port = str(self.rendezvous).rpartition(":")
        meet = ["--rdzv-backend", "static", "--master-addr", host, "--master-port", port]
        ranks = ["--nnodes", str(self.machines), "--node-rank", str(self.machine)]
        return [*meet, *ranks, "--nproc-per-node", str(self.processes)]


def launch(arguments: Sequence[str], layout: Layout, *, command: str) -> None:
    """Run `mwactl ARGUMENTS…` in several processes until all are done.

    Args:
        arguments: Of each process.
        layout: Which processes.
        command: What was typed, without what says how to begin; with `--resume` it goes on.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the processes have saved and are gone.
        UsageError: There is no such host as `layout.rendezvous`.
        MwactlError: A process failed; what it says, and its exit code. All are gone. Or machine 0 does not answer.
    """
    if layout.machine > 0:
        _wait_for_the_first_machine(str(layout.rendezvous))
    elif layout.machines > 1:
        out.info(f"waiting for the other machines at {layout.rendezvous}")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    with tempfile.TemporaryDirectory(prefix="mwactl-launch-") as folder:
        killed: dict[int, int] = {}
        stopped = False
        options = [*layout.torchrun(), "--max-restarts", "0", "-m", "mwactl", *arguments]
        with _quietly(layout, {REPORTS: folder, COMMAND: command}), _ended_by_signals(layout):
            try:
                run(parse_args(options))  # type: ignore[no-untyped-call]
            except ChildFailedError as error:
                killed = {rank: -child.exitcode for rank, child in error.failures.items() if child.exitcode < 0}
            except SignalException:
                stopped = True
            except (RuntimeError, OSError, ValueError) as error:
                raise MwactlError(
                    "the processes could not be started",
                    why=str(error).splitlines()[0][:200],
                    fix=f"{command} --resume",
                ) from error
            else:
                return
        ending = Ending(read_reports(Path(folder)), killed, count=layout.count, resume_command=f"{command} --resume")
    if stopped:
        ending.tell_interruption()
    else:
        ending.tell_failure()


@contextmanager
def silent_torch() -> Iterator[None]:
    """For torch's first import: then its C++ side reads whether to print traces, as of a machine that is not there."""
    before = os.environ.get(_CPP_LOG_LEVEL)
    os.environ[_CPP_LOG_LEVEL] = before or "FATAL"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CPP_LOG_LEVEL]


def _wait_for_the_first_machine(rendezvous: str) -> None:
    """Until somebody listens there; torch would wait too, but in C++, where no signal ends it.

    Raises:
        UsageError: There is no such host.
        MwactlError: Nobody does for a quarter of an hour.
    """
    host, _, port = rendezvous.rpartition(":")
    told, last = False, time.monotonic() + _MEETING_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()
            return
        except socket.gaierror as error:
            raise UsageError(
                f"there is no host {host}", why=error.strerror, fix="--rendezvous HOST:PORT, the same as on machine 0"
            ) from error
        except OSError as error:
            if time.monotonic() > last:
                raise MwactlError(
                    f"machine 0 does not answer at {rendezvous}",
                    why=error.strerror or str(error),
                    fix="the same command with --node-rank 0 on that machine; its port must be open",
                ) from error
        if not told:
            out.info(f"waiting for machine 0 at {rendezvous}")
            told = True
        time.sleep(_PROBE_SECONDS / 4)


@contextmanager
def _ended_by_signals(layout: Layout) -> Iterator[None]:
    """Let signals end this process while it waits for other machines: in C++, where no handler of Python's is called.

    Once it starts its processes, torch handles the signals.
    """
    if layout.machines == 1:
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quietly(layout: Layout, told: dict[str, str]) -> Iterator[None]:
    """The environment that the processes inherit, while the launcher's own log is off."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = {
        **told,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // layout.processes))),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _GRACE_SECONDS),
        _CPP_LOG_LEVEL: os.environ.get(_CPP_LOG_LEVEL, "ERROR"),
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
