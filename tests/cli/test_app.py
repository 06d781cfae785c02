from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

import mwactl.cli


def subcommands(help_text: str) -> list[str]:
    """The commands that a help text lists."""
    _, _, listed = help_text.partition("\nCommands:\n")
    return [match[1] for line in listed.splitlines() if (match := re.match(r"  (\S+)  ", line))]


def run_program(*arguments: str, **options) -> subprocess.Popen[bytes]:
    program = "from mwactl.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_every_command_has_a_help_text_that_ends_with_an_example_of_options_that_exist(mwactl_cli):
    waiting: list[tuple[str, ...]] = [()]
    commands = []
    while waiting:
        path = waiting.pop()
        result = mwactl_cli(*path, "--help")
        assert result.code == 0
        inner = subcommands(result.stdout)
        waiting += [(*path, name) for name in inner]
        usage, _, rest = result.stdout.partition("\n\n")
        assert usage.startswith("Usage: mwactl")
        assert rest.strip()[0].isupper(), f"{path} does not say what it does"
        if not inner:
            commands.append(" ".join(path))
            text = " ".join(result.stdout.split())
            assert f"Example: mwactl {' '.join(path)}" in text, path
            assert "Next: mwactl " in text.partition("Example: ")[2], path
            for option in ("--json", "-q, --quiet", "--debug"):
                assert option in result.stdout, f"{path} lacks {option}"
            options, _, example = result.stdout.partition("Example: ")
            for option in re.findall(r"(?<= )--[a-z-]+", " ".join(example.split()).partition("Next:")[0]):
                assert f"{option} " in options, f"{path}: {option}"
    assert {"inject", "train", "eval", "backbones show", "data add", "recipes check", "registry list"} <= set(commands)


def test_the_version(mwactl_cli):
    result = mwactl_cli("--version")
    assert (result.code, result.stdout) == (0, f"mwactl {mwactl.__version__}\n")


@pytest.mark.parametrize("arguments", [["nonsense"], ["data", "nonsense"], ["eval", "--nonsense"], ["train"]])
def test_what_is_not_a_command_exits_2_with_the_way_to_help(mwactl_cli, arguments):
    result = mwactl_cli(*arguments)
    assert (result.code, result.stdout) == (2, "")
    assert "--help" in result.stderr


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_output_options_work_before_and_after_the_command(mwactl_cli, option):
    after = mwactl_cli("backbones", "list", option).stdout
    assert mwactl_cli(option, "backbones", "list").stdout == after
    assert mwactl_cli("backbones", "list").stdout != after


def test_a_bug_says_so_and_shows_its_traceback_only_if_asked(mwactl_cli, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("mwactl.backbone.all_specs", broken)
    result = mwactl_cli("backbones", "list")
    assert (result.code, result.stdout) == (1, "")
    assert "this is a bug in mwactl: ZeroDivisionError: division by zero" in result.stderr
    assert "Traceback" not in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" in mwactl_cli("backbones", "list", "--debug").stderr
    monkeypatch.setenv("MWACTL_DEBUG", "1")
    assert "Traceback" in mwactl_cli("backbones", "list").stderr


def test_debug_shows_the_traceback_of_an_error_too(mwactl_cli):
    assert "Traceback" not in mwactl_cli("registry", "show", "absent").stderr
    result = mwactl_cli("registry", "show", "absent", "--debug")
    assert result.code == 3
    assert "Traceback" in result.stderr
    assert "error: " in result.stderr


def test_light_commands_load_nothing_heavy():
    program = (
        "import sys, contextlib, os\n"
        "from mwactl.cli import main\n"
        "for arguments in (['--help'], ['registry', 'list'], ['data', 'list'], ['help', 'exit-codes']):\n"
        "    sys.argv = ['mwactl', *arguments]\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, 'w')):\n"
        "        main()\n"
        "    loaded = {'torch', 'open_clip', 'transformers', 'mwactl.config'} & set(sys.modules)\n"
        "    assert not loaded, (arguments, loaded)\n"
        "    if arguments == ['--help']:\n"
        "        loaded = {'numpy', 'yaml', 'PIL'} & set(sys.modules)\n"
        "        assert not loaded, (arguments, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_who_has_enough_is_no_error():
    process = run_program("help", "config", "-q")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before anything was written
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert "Broken" not in stderr
    assert "Exception" not in stderr


def test_an_interrupt_before_any_work_exits_130(mwactl_cli, monkeypatch):
    monkeypatch.setattr("mwactl.backbone.all_specs", lambda: os.kill(os.getpid(), signal.SIGINT))
    result = mwactl_cli("backbones", "list")
    assert (result.code, result.stdout) == (130, "")
    assert result.stderr == "interrupted; nothing was half-written\n"
    monkeypatch.setattr("mwactl.backbone.all_specs", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert mwactl_cli("backbones", "list").code == 130


def test_the_installed_program_is_this_one():
    from importlib.metadata import entry_points

    [program] = entry_points(group="console_scripts", name="mwactl")
    assert program.load() is mwactl.cli.main
