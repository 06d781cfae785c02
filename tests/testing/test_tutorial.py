"""docs/plugin.md: its files are the scaffold's, and its commands take a plugin through all of its life."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
from PIL import Image

from mwactl.backbone import plugins
from mwactl.scaffold import EXAMPLE, scaffold_files
from mwactl.testing import CHECKS, check_backbone

TUTORIAL = (Path(__file__).parents[2] / "docs" / "plugin.md").read_text(encoding="utf-8")
_COLOURS = ("red", "green", "blue", "white", "black", "yellow", "orange", "purple")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", TUTORIAL, flags=re.DOTALL)
    return [shlex.split(line.removeprefix("$ ")) for block in blocks for line in block.splitlines()]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with `captions.csv` and `photos`; afterwards no plugin is installed any more."""
    folder = tmp_path / "here"
    (folder / "photos").mkdir(parents=True)
    monkeypatch.chdir(folder)
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for split, count in (("train", 8), ("val", 6), ("test", 6)):
            for colour in _COLOURS[:count]:
                Image.new("RGB", (40, 32), colour).save(folder / "photos" / f"{split}-{colour}.png")
                table.writerow([f"{split}-{colour}.png", f"a {colour} picture for {split}", split])
    yield folder
    plugins.cache_clear()
    for module in [module for module in sys.modules if module.partition(".")[0] == "my_encoder"]:
        del sys.modules[module]


def test_its_files_are_the_scaffolds() -> None:
    shown = dict(re.findall(rf"^`{EXAMPLE}/(\S+)`\n\n```\w+\n(.*?)```", TUTORIAL, flags=re.DOTALL | re.MULTILINE))
    assert {PurePosixPath(path): text for path, text in shown.items()} == scaffold_files()


def test_the_plugin_is_under_200_lines_in_all() -> None:
    lines = [line for text in scaffold_files().values() for line in text.splitlines() if line.strip()]
    assert len(lines) < 200


def test_its_commands_take_a_plugin_of_another_package_through_every_verb(
    empty_folder: Path, mwactl_cli: Callable, install: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    verbs = []
    for program, *words in commands():
        if program == "pip":
            assert words == ["install", "-e", EXAMPLE]
            install(empty_folder / EXAMPLE)
            monkeypatch.syspath_prepend(empty_folder / EXAMPLE)
            plugins.cache_clear()
        elif program == "pytest":
            run_its_tests(empty_folder / words[0])
        else:
            assert program == "mwactl"
            verbs.append(words[0])
            result = mwactl_cli(*words, *(["data.workers=0"] if words[0] == "train" else []))
            assert result.code == 0, (words, result.stderr)
            assert result.stdout.strip(), words
            if verbs[-1] == "search":
                assert len(result.stdout.splitlines()) == 10
            if verbs[-1] == "registry":
                assert EXAMPLE in result.stdout
    assert verbs == [
        "backbones", "backbones", "inject", "data", "train", "eval", "merge", "export", "verify", "embed", "search",
        "card", "registry",
    ]  # fmt: skip


def run_its_tests(folder: Path) -> None:
    """As pytest would, in this process: the file's one test. Graphs are left to the export that follows."""
    (file,) = (folder / "tests").glob("test_*.py")
    spec = importlib.util.spec_from_file_location("its_tests", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: list[tuple[str, str]] = []

    def check(name: str, *, weights: str) -> None:
        made.append((name, weights))
        assert check_backbone(name, weights=weights, only=CHECKS.keys() - {"graphs"}) == {}

    module.check_backbone = check
    module.test_the_backbone_keeps_the_contract()
    assert made == [(EXAMPLE, "random")]
