from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from mwactl.cli.output import Column, Mode, Output, duration, run_guarded, size
from mwactl.errors import (
    DataError,
    ExitCode,
    IncompatibleError,
    Interrupted,
    MwactlError,
    NotFoundError,
    RecipeError,
    ResourceError,
    UsageError,
    VerificationError,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True


class Pipe(Terminal):
    def isatty(self) -> bool:
        return False


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Make stdout a terminal of some width."""

    def make(columns: int = 80, encoding: str = "utf-8") -> Terminal:
        stream = Terminal(encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", str(columns))
        return stream

    return make


ROWS = [
    {"name": "coco-mwa", "r1": 61.25, "note": "the best of all"},
    {"name": "f", "r1": 7.0, "note": None},
]
COLUMNS = [
    Column("name", "NAME", keep=True),
    Column("note", "NOTE"),
    Column("r1", "R@1", right=True, format="{:.1f}".format, keep=True),
]


def test_a_terminal_gets_an_aligned_table_with_headings(terminal):
    stream = terminal()
    Output().table(ROWS, COLUMNS)
    assert stream.getvalue() == (
        "NAME      NOTE              R@1\n"
        "coco-mwa  the best of all  61.2\n"
        "f                           7.0\n"
    )  # fmt: skip


def test_a_narrow_terminal_loses_columns_and_never_wraps(terminal):
    stream = terminal(30)
    Output().table(ROWS, COLUMNS)
    assert stream.getvalue() == "NAME       R@1\ncoco-mwa  61.2\nf          7.0\n"
    stream = terminal(31)
    Output().table(ROWS, COLUMNS)
    assert "NOTE" in stream.getvalue()
    stream = terminal(5)
    Output().table(ROWS, COLUMNS)
    assert "R@1" in stream.getvalue(), "columns that are to be kept are kept on the narrowest terminal"


def test_the_rightmost_column_that_may_go_goes_first(terminal):
    stream = terminal(12)
    columns = [Column("a", "AAAA"), Column("b", "BBBB"), Column("c", "CCCC", keep=True)]
    Output().table([{"a": 1, "b": 2, "c": 3}], columns)
    assert stream.getvalue().splitlines()[0] == "AAAA  CCCC"


def test_an_empty_table_is_its_headings(terminal):
    stream = terminal()
    Output().table([], COLUMNS)
    assert stream.getvalue() == "NAME  NOTE  R@1\n"


def test_a_pipe_gets_tab_separated_rows_without_headings(monkeypatch: pytest.MonkeyPatch):
    stream = Pipe()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "5")
    Output().table(ROWS, COLUMNS)
    assert stream.getvalue() == "coco-mwa\tthe best of all\t61.2\nf\t\t7.0\n"


def test_signs_that_the_encoding_lacks_are_spelled_in_ascii(terminal):
    stream = terminal(encoding="ascii")
    Output().text("image→text 5 × 25 · ok ✓ sha256:ab… naïve")
    assert stream.getvalue() == "image->text 5 x 25 - ok ok sha256:ab... na?ve\n"
    stream = terminal(encoding="utf-8")
    Output().text("image→text ✓")
    assert stream.getvalue() == "image→text ✓\n"


@pytest.mark.parametrize(
    ("mode", "stdout"),
    [(Mode.HUMAN, "for people\n"), (Mode.JSON, '{\n  "schema": 1,\n  "name": "é"\n}\n'), (Mode.QUIET, "the-name\n")],
)
def test_an_answer_is_printed_in_the_mode_asked_for(capsys, mode: Mode, stdout: str):
    output = Output()
    output.mode = mode
    output.answer({"schema": 1, "name": "é"}, human=lambda: output.text("for people"), identifier="the-name")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (stdout, "")


def test_a_document_with_a_number_that_json_lacks_is_refused():
    output = Output()
    output.mode = Mode.JSON
    with pytest.raises(ValueError, match="JSON"):
        output.answer({"loss": float("nan")}, human=lambda: None, identifier="")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (Mode.HUMAN, "info\nwarning: warn\nnext: mwactl hint\n"),
        (Mode.JSON, "info\nwarning: warn\n"),
        (Mode.QUIET, "warning: warn\n"),
    ],
)
def test_everything_else_goes_to_stderr_and_less_of_it_where_no_person_reads(capsys, mode: Mode, said: str):
    output = Output()
    output.mode = mode
    output.info("info")
    output.warn("warn")
    output.hint("mwactl hint")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", said)


def test_an_error_says_what_where_why_and_the_next_command(capsys):
    Output().error(MwactlError("no such thing", where="here", why="nobody made it", fix="mwactl make"))
    assert capsys.readouterr().err == "error: no such thing  (here)\n  nobody made it\n  fix: mwactl make\n"
    Output().error(MwactlError("no such thing"))
    assert capsys.readouterr().err == "error: no such thing\n"


def test_every_mistake_of_a_recipe_is_shown_and_the_count_last(capsys):
    problems = [UsageError("one", where="r.yaml line 1"), UsageError("two", where="r.yaml line 2", fix="change it")]
    Output().error(RecipeError(problems))
    assert capsys.readouterr().err == (
        "error: one  (r.yaml line 1)\nerror: two  (r.yaml line 2)\n  fix: change it\n"
        "2 problems in the recipe; nothing was started\n"
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, ExitCode.DONE),
        (MwactlError("x"), ExitCode.FAILED),
        (DataError("x"), ExitCode.FAILED),
        (ZeroDivisionError("x"), ExitCode.FAILED),
        (UsageError("x"), ExitCode.USAGE),
        (RecipeError([UsageError("x")]), ExitCode.USAGE),
        (NotFoundError("x"), ExitCode.NOT_FOUND),
        (IncompatibleError("x"), ExitCode.INCOMPATIBLE),
        (VerificationError("x"), ExitCode.VERIFICATION),
        (ResourceError("x"), ExitCode.RESOURCES),
        (Interrupted("x"), ExitCode.INTERRUPTED),
    ],
)
def test_every_error_has_its_exit_code_and_prints_nothing_on_stdout(capsys, error, code: ExitCode):
    def action() -> None:
        if error is not None:
            raise error

    assert run_guarded(action, Output()) == int(code)
    assert capsys.readouterr().out == ""


def test_an_interruption_names_what_was_saved_and_how_to_go_on(capsys):
    Output().interrupted(Interrupted("saved at step 4", fix="mwactl train r.yaml --resume"))
    assert capsys.readouterr().err == "saved at step 4\n  go on: mwactl train r.yaml --resume\n"


def test_without_a_terminal_progress_is_a_line_every_30_seconds(capsys, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("mwactl.cli.output.time.monotonic", lambda: now[0])
    progress = Output().progress("training", 1200, done=200)
    for second in range(1, 61):
        now[0] = float(second)
        progress.advance(10, note="loss 1.5")
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "training  500/1,200  loss 1.5  eta 1 min 10 s",
        "training  800/1,200  loss 1.5  eta 40 s",
    ]


def test_on_a_terminal_progress_is_one_live_line_that_goes_away(monkeypatch: pytest.MonkeyPatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    progress = Output().progress("training", 10)
    progress.advance(4, note="loss 1.5")
    progress.close()
    assert "training" in stream.getvalue()
    assert "\x1b[2K" in stream.getvalue()  # the line is erased at the end


def test_quiet_means_no_progress(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mwactl.cli.output.time.monotonic", iter(range(0, 10_000, 100)).__next__)
    output = Output()
    output.mode = Mode.QUIET
    progress = output.progress("training", 10)
    progress.advance(5)
    progress.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (41.2, "41 s"),
        (59.6, "1 min 0 s"),
        (725, "12 min 5 s"),
        (4320, "1 h 12 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_durations_for_people(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (26_100_000, "26.1 MB"),
        (1_500_000_000, "1.5 GB"),
        (7 * 10**15, "7000.0 TB"),
    ],
)
def test_sizes_for_people(size_bytes: int, text: str):
    assert size(size_bytes) == text


def test_json_answers_keep_their_keys_in_order(capsys):
    output = Output()
    output.mode = Mode.JSON
    output.answer({"schema": 1, "b": 1, "a": 2}, human=lambda: None, identifier="")
    assert list(json.loads(capsys.readouterr().out)) == ["schema", "b", "a"]


def test_escape_sequences_of_others_never_reach_the_terminal(capsys):
    output = Output()
    output.text("a\x1b[2Jname\twith \x9b31m colour\x07")
    output.warn("file \x1b]0;title\x07")
    captured = capsys.readouterr()
    assert captured.out == "a\\x1b[2Jname\twith \\x9b31m colour\\x07\n"
    assert captured.err == "warning: file \\x1b]0;title\\x07\n"


def test_no_traceback_shows_the_values_of_variables(mwactl_cli, monkeypatch):
    def broken(*_: object) -> None:
        token = "hf_" + "s3cret" * 3
        raise ZeroDivisionError(f"division by zero, with {len(token)} characters at hand")

    monkeypatch.setattr("mwactl.backbone.all_specs", broken)
    result = mwactl_cli("backbones", "list", "--debug")
    assert "raise ZeroDivisionError" in result.stderr
    assert "s3crets3cret" not in result.stderr


def test_a_file_that_the_system_refuses_is_no_bug(mwactl_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MWACTL_HOME", str(tmp_path / "file"))
    result = mwactl_cli("data", "list")
    assert result.code == ExitCode.RESOURCES
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: the system refused a file")
    assert str(tmp_path / "file") in lines[0]
    assert "Not a directory" in lines[1]
    assert lines[-1].startswith("  fix: ")
