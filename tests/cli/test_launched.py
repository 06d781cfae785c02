from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mwactl.cli.launch import Layout, launch
from mwactl.cli.launched import COMMAND, REPORTS, Ending, Report, is_first, one_of_several, read_reports, typed_command
from mwactl.cli.output import Mode, out
from mwactl.errors import ExitCode, IncompatibleError, Interrupted, MwactlError, ResourceError, UsageError

RESUME = "mwactl train toy.yaml --nproc 2 --resume"


@pytest.fixture
def as_rank(monkeypatch, tmp_path: Path):
    """This process as one of several that a launcher started."""

    def become(rank: int, *, launched: bool = True) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        if launched:
            monkeypatch.setenv(REPORTS, str(tmp_path))

    return become


def ending(*reports: Report, killed: dict[int, int] | None = None) -> Ending:
    return Ending(reports, killed or {}, count=2, resume_command=RESUME)


def reported(error: BaseException, folder: Path) -> Report:
    with pytest.raises(SystemExit), one_of_several():
        raise error
    [report] = read_reports(folder)
    return report


def test_a_process_that_fails_leaves_a_report_and_its_exit_code_and_prints_nothing(as_rank, tmp_path, capfd):
    as_rank(1)
    with pytest.raises(SystemExit) as exit_info, one_of_several():
        raise ResourceError("no memory", where="here", why="small", fix="more")
    assert exit_info.value.code == ExitCode.RESOURCES
    [report] = read_reports(tmp_path)
    assert (report.rank, report.code, report.what, report.where) == (1, 6, "no memory", "here")
    assert (report.why, report.fix, report.echo) == ("small", "more", False)
    assert capfd.readouterr() == ("", "")


def test_what_follows_from_another_processs_failure_is_an_echo(as_rank, tmp_path):
    from mwactl.train.distributed import PeerLostError
    from mwactl.train.exchange import OutOfMemoryElsewhereError
    from mwactl.train.micro_batch import MicroBatch

    as_rank(0)
    assert reported(PeerLostError("gone"), tmp_path).echo
    memory = MicroBatch(None, 8).too_large(OutOfMemoryElsewhereError("process 1 ran out of memory"))
    memory.__cause__ = OutOfMemoryElsewhereError("process 1 ran out of memory")
    assert reported(memory, tmp_path).echo
    assert not reported(ResourceError("disk full"), tmp_path).echo


def test_a_bug_in_a_process_is_reported_as_one(as_rank, tmp_path):
    as_rank(1)
    report = reported(KeyError("x"), tmp_path)
    assert (report.code, report.what) == (1, "this is a bug in mwactl: KeyError: 'x'")


def test_only_the_first_process_speaks(as_rank):
    with one_of_several():
        assert is_first()
        assert out.mode is Mode.HUMAN
    as_rank(1, launched=False)
    with one_of_several():
        assert not is_first()
        assert out.mode is Mode.QUIET


def test_without_a_launcher_an_error_passes_through(as_rank):
    as_rank(1, launched=False)
    with pytest.raises(ResourceError), one_of_several():
        raise ResourceError("no memory")


def test_the_command_that_goes_on_is_the_one_that_was_typed(monkeypatch):
    assert typed_command("mwactl train toy.yaml") == "mwactl train toy.yaml"
    monkeypatch.setenv(COMMAND, "mwactl train toy.yaml --nproc 2")
    assert typed_command("mwactl train toy.yaml") == "mwactl train toy.yaml --nproc 2"


# -- the one message -------------------------------------------------------------------------------------------------


def test_the_first_error_of_a_process_is_told_with_its_exit_code_and_its_own_fix():
    with pytest.raises(MwactlError) as caught:
        ending(
            Report(0, 1, "another process of this run is gone", echo=True, time_ns=1),
            Report(1, 6, "no memory", why="small", fix="smaller", time_ns=2),
        ).tell_failure()
    error = caught.value
    assert error.exit_code == ExitCode.RESOURCES
    assert (error.what, error.why) == ("process 1 of 2: no memory", "small")
    assert error.fix == "smaller"  # which is another run than the one that --resume would go on with


def test_an_error_without_a_fix_of_its_own_names_the_command_that_goes_on():
    with pytest.raises(MwactlError) as caught:
        ending(Report(1, 1, "disk full")).tell_failure()
    assert caught.value.fix == RESUME


def test_the_earlier_of_two_errors_is_told():
    with pytest.raises(MwactlError, match="process 1 of 2: first"):
        ending(Report(0, 1, "second", time_ns=9), Report(1, 1, "first", time_ns=3)).tell_failure()


def test_an_error_of_what_was_asked_for_names_no_process_and_nothing_to_go_on_with():
    with pytest.raises(MwactlError) as caught:
        ending(Report(0, 2, "unfinished run", fix="--restart")).tell_failure()
    assert (caught.value.what, caught.value.fix, caught.value.exit_code) == ("unfinished run", "--restart", 2)


def test_a_process_that_was_killed_is_named_with_the_signal():
    lost = Report(0, 1, "another process of this run is gone", echo=True)
    stopped = Report(0, 130, "interrupted at step 3")  # what the launcher does to the others
    for other in (lost, stopped):
        with pytest.raises(MwactlError, match="process 1 of 2 was killed by SIGKILL") as caught:
            ending(other, killed={1: signal.SIGKILL}).tell_failure()
        assert caught.value.exit_code == ExitCode.FAILED
        assert str(caught.value.fix).startswith(RESUME)


def test_where_only_echoes_are_left_the_failure_was_on_another_machine():
    with pytest.raises(MwactlError, match="process 1 of 2: another process of this run is gone"):
        ending(Report(1, 1, "another process of this run is gone", echo=True)).tell_failure()


def test_an_interruption_is_told_once_in_the_words_of_the_first_process():
    both = [Report(rank, 130, f"interrupted, says {rank}", fix=RESUME) for rank in (0, 1)]
    for tell in (ending(*both).tell_interruption, ending(*both).tell_failure):
        with pytest.raises(Interrupted) as caught:
            tell()
        assert (caught.value.message, caught.value.fix) == ("interrupted, says 0", RESUME)
    with pytest.raises(Interrupted, match="the last checkpoint stands"):
        ending().tell_interruption()


def test_a_run_that_was_done_before_it_could_be_interrupted_is_done():
    assert ending(Report(0, 0), Report(1, 0)).tell_interruption() is None


# -- the options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(1, 2), "several machines need a place to meet"),
        (Layout(1, 2, 0, "node0"), "is not HOST:PORT"),
        (Layout(1, 2, 0, "node0:65536"), "is not HOST:PORT"),
        (Layout(1, 2, 2, "node0:1"), "there is no machine 2 among 2"),
        (Layout(2, 1, 1), "are for several machines"),
        (Layout(2, 1, 0, "node0:1"), "are for several machines"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(layout: Layout, message: str):
    with pytest.raises(UsageError, match=message):
        layout.check()


def test_a_host_that_there_is_not_is_named_at_once(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(UsageError, match="there is no host nowhere") as caught:
        launch([], Layout(1, 2, 1, "nowhere:29500"), command="mwactl train toy.yaml")
    assert caught.value.why == "Name or service not known"


def test_processes_that_torchrun_has_started_start_no_others(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    Layout(1).check()
    with pytest.raises(UsageError, match="torchrun has started the processes already"):
        Layout(2).check()


def test_the_options_are_typed_again_by_the_command_that_goes_on():
    assert Layout(1).options() == []
    assert Layout(4).options() == ["--nproc", "4"]
    assert Layout(4, 2, 1, "node0:29500").options() == [
        "--nproc", "4", "--nnodes", "2", "--node-rank", "1", "--rendezvous", "node0:29500",
    ]  # fmt: skip


def test_machines_meet_where_asked_and_one_machine_by_itself():
    assert Layout(4).torchrun() == ["--standalone", "--nproc-per-node", "4"]
    several = Layout(4, 2, 1, "node0:29500").torchrun()
    assert several[several.index("--master-addr") + 1] == "node0"
    assert several[several.index("--master-port") + 1] == "29500"
    assert several[several.index("--node-rank") + 1] == "1"


def test_an_incompatible_machine_says_so(as_rank, tmp_path):
    as_rank(1)
    report = reported(IncompatibleError("process 1 would train another run"), tmp_path)
    assert report.code == ExitCode.INCOMPATIBLE
    with pytest.raises(MwactlError) as caught:
        ending(report).tell_failure()
    assert caught.value.what == "process 1 would train another run"


def test_a_process_whose_launcher_is_gone_ends_as_after_sigterm(tmp_path: Path):
    program = """\
import os, signal, sys, time
from mwactl.cli.launched import one_of_several
from mwactl.errors import Interrupted

def stop(number, frame):
    raise Interrupted("stopped")

signal.signal(signal.SIGTERM, stop)
if os.fork() == 0:
    with one_of_several():
        time.sleep(60)
"""
    environment = os.environ | {"RANK": "1", REPORTS: str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program + "time.sleep(0.5)\n"], env=environment, check=True, timeout=60)
    deadline = time.monotonic() + 50
    while not (found := read_reports(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [(report.rank, report.code, report.what) for report in found] == [(1, 130, "stopped")]
