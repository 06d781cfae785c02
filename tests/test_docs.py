"""The commands and programs of the pages in `docs/` that no other test runs work as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
#: A small backbone and one short epoch, for commands that would train a large one.
_SMALL = ["backbone.name=clip-tiny-emoji", "train.epochs=1", "train.batch_size=5", "data.workers=0"]


def commands_of(page: str) -> list[list[str]]:
    """The `mwactl` lines of a page's console blocks, without comments."""
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / page).read_text("utf-8"), flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ mwactl")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def my_pictures(own_pictures: None, mwactl_cli) -> None:
    """The data set of that name."""
    added = mwactl_cli("data", "add", "my-pictures", "--annotations", "captions.csv", "--images", "photos")
    assert added.code == 0, added.stderr


@pytest.mark.usefixtures("my_pictures")
@pytest.mark.parametrize("page", ["backbones.md", "methods.md"])
def test_the_commands_of_a_page_work(mwactl_cli, page: str) -> None:
    commands = commands_of(page)
    assert commands
    for words in commands:
        small = _SMALL if words[0] == "train" or words[:2] == ["bench", "methods"] else []
        result = mwactl_cli(*words, *small)
        assert result.code == 0, (words, result.stderr)
        assert result.stdout.strip(), words


@pytest.mark.usefixtures("my_pictures")
def test_the_commands_about_a_run_work_after_one(mwactl_cli) -> None:
    trained = mwactl_cli("train", "captions", "name=coco-mwa", *_SMALL)
    assert trained.code == 0, trained.stderr
    for words in commands_of("runs.md"):
        result = mwactl_cli(*words)
        assert result.code == 0, (words, result.stderr)
        assert result.stdout.strip(), words
    assert Path("curves.png").is_file()


@pytest.mark.usefixtures("own_pictures")
def test_the_commands_for_several_processes_can_be_planned(mwactl_cli) -> None:
    """Each as a dry run: `tests/cli/test_launch.py` really starts processes."""
    added = mwactl_cli("data", "add", "coco", "--annotations", "captions.csv", "--images", "photos")
    assert added.code == 0, added.stderr
    commands = commands_of("distributed.md")
    assert len(commands) == 5
    for words in commands:
        result = mwactl_cli(*words, *_SMALL, "--dry-run")
        assert result.code == 0, (words, result.stderr)
        assert "processes" in result.stdout, words


@pytest.mark.usefixtures("my_pictures")
def test_the_programs_of_the_python_page_run_one_after_the_other(capfd: pytest.CaptureFixture[str]) -> None:
    programs = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text("utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    for program in programs:
        exec(compile(program, "python.md", "exec"), names)
    printed = capfd.readouterr().out
    assert "drawings@1" in printed and "->" in printed and "no-such-adapter" in printed


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_what_a_page_links_to_is_there(page: str) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", (DOCS / page).read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
        assert (DOCS / target).exists(), target


def test_every_test_that_a_page_names_is_there() -> None:
    pages = "".join(path.read_text("utf-8") for path in DOCS.glob("*.md"))
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", pages)
    assert len(named) > 100
    for file, test in named:
        text = (DOCS.parent / file).read_text("utf-8")
        assert re.search(rf"^def {test}\(", text, flags=re.MULTILINE), f"{file}::{test}"
