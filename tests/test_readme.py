"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def section(heading: str) -> str:
    """What stands under one of the README's headings."""
    return README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]


def commands_under(heading: str) -> list[list[str]]:
    """The `mwactl` lines of the console blocks under one of the README's headings, without comments."""
    blocks = re.findall(r"```console\n(.*?)```", section(heading), flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ mwactl")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def train_small(mwactl_cli) -> None:
    """The README's first commands, with the small bundled backbone and one epoch."""
    add, *_ = commands_under("Your own pictures")
    small = ["backbone.name=clip-tiny-emoji", "train.epochs=1", "train.batch_size=5", "data.workers=0"]
    for words in (add, ["train", "captions.yaml", *small]):
        assert mwactl_cli(*words).code == 0


@pytest.mark.usefixtures("own_pictures")
def test_the_commands_for_your_own_pictures_work(mwactl_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, but for the training run: it gets the small bundled backbone and one epoch."""
    commands = commands_under("Your own pictures")
    assert [words[0] for words in commands] == ["data", "inject", "train", "eval", "registry"]
    for words in commands:
        extra: list[str] = []
        if words[0] == "train":
            extra = ["backbone.name=clip-tiny-emoji", "train.epochs=1", "train.batch_size=5", "data.workers=0"]
        result = mwactl_cli(*words, *extra)
        assert result.code == 0, (words, result.stderr)
        assert result.stdout.strip(), words


@pytest.mark.usefixtures("own_pictures")
def test_the_commands_and_the_program_for_deployment_work(mwactl_cli) -> None:
    """The program as a deployment runs it: in a process of its own, with nothing but what the bundle requires."""
    train_small(mwactl_cli)
    for words in commands_under("Out of the lab"):
        result = mwactl_cli(*words)
        assert result.code == 0, (words, result.stderr)
        assert result.stdout.strip(), words
    assert Path("hits.png").is_file()
    (program,) = re.findall(r"```python\n(.*?)```", section("Out of the lab"), flags=re.DOTALL)
    forbidden = ("torch", "torchvision", "open_clip", "mwactl", "transformers")
    checked = f"{program}\nassert not set({forbidden!r}) & sys.modules.keys()\n"
    done = subprocess.run([sys.executable, "-c", checked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "CPUExecutionProvider" in done.stdout


@pytest.mark.usefixtures("own_pictures")
def test_the_commands_for_keeping_adapters_work(mwactl_cli) -> None:
    """On what the commands before them have made."""
    train_small(mwactl_cli)
    for words in commands_under("Keeping adapters"):
        result = mwactl_cli(*words)
        assert result.code == 0, (words, result.stderr)
        assert result.stdout.strip(), words
    assert Path("prod.tar").is_file()
    assert Path("MODEL_CARD.md").read_text().startswith("---\n")


def test_the_make_targets_the_readme_names_exist() -> None:
    targets = set(
        re.findall(r"^([a-z]+):", (README.parent / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    named = set(re.findall(r"^\$ make ([a-z]+)", README.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named == {"demo", "test"}
    assert named <= targets


def test_the_python_example_runs(mwactl_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    inject = mwactl_cli("inject", "--backbone", "clip-tiny-emoji", "--name", "quickstart")
    assert inject.code == 0, inject.stderr
    (example,) = re.findall(r"```python\n(.*?)```", section("From Python"), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert tuple(names["embedding"].shape) == (1, 128)  # type: ignore[attr-defined]


def test_every_command_the_readme_lists_exists(mwactl_cli) -> None:
    rows = re.findall(r"^\| `mwactl ([a-z]+)", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = mwactl_cli("--help").stdout
    for verb in rows:
        assert re.search(rf"^\s+{verb}\s", listed, flags=re.MULTILINE), verb
