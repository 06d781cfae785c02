from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mwactl.cli.app import app
from mwactl.cli.completion import (
    complete_backbone,
    complete_data,
    complete_override,
    complete_recipe,
    complete_reference,
)
from mwactl.data import Catalogue
from mwactl.registry import Registry


@pytest.fixture
def registry() -> Registry:
    """`coco` with three versions (2 removed) and two aliases, `coco-mwa` and `zebra` with one version."""
    registry = Registry.default()
    for name, count in (("coco", 3), ("coco-mwa", 1), ("zebra", 1)):
        for number in range(count):
            registry.publish(name, kind="adapter", files={"a": bytes([number])}, facts={}, verb="train")
    registry.alias("coco", "prod", 1)
    registry.alias("coco", "best", 3)
    registry.remove(registry.resolve("coco@2"))
    return registry


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["coco", "coco-mwa", "zebra"]),
        ("c", ["coco", "coco-mwa"]),
        ("C", ["coco", "coco-mwa"]),
        ("coco", ["coco", "coco-mwa", "coco:best", "coco:prod", "coco@3", "coco@1"]),
        ("coco@", ["coco@3", "coco@1"]),
        ("coco@1", ["coco@1"]),
        ("coco:", ["coco:best", "coco:prod"]),
        ("coco:p", ["coco:prod"]),
        ("z", ["zebra", "zebra@1"]),
        ("other@", []),
        ("x", []),
        ("../", []),
        ("\0@", []),
    ],
)
def test_names_are_offered_first_then_versions_and_aliases_of_one(typed: str, offered: list[str]) -> None:
    assert complete_reference(typed) == offered


def test_nothing_is_offered_and_nothing_fails_without_a_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complete_reference("c") == []
    (tmp_path / "file").write_text("no registry")
    monkeypatch.setenv("MWACTL_REGISTRY", str(tmp_path / "file"))
    assert complete_reference("c") == []
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def catalogue(tiny_pictures: Path) -> None:
    """A data set `zoo`, added as a user adds it."""
    Catalogue.default().add(
        "zoo", format="karpathy", annotations=tiny_pictures / "dataset.json", images=tiny_pictures / "images"
    )


@pytest.mark.usefixtures("catalogue")
def test_data_sets_of_the_catalogue_are_offered() -> None:
    assert (complete_data(""), complete_data("z"), complete_data("x")) == (["zoo"], ["zoo"], [])


def test_recipes_of_the_package_and_files_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("coco.yaml", "cats.yaml", "coco.txt", "sub/mine.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("name: a\n")
    assert complete_recipe("co") == ["coco", "coco.yaml"]
    assert complete_recipe("./ca") == ["./cats.yaml"]
    assert complete_recipe("sub/") == complete_recipe("sub/m") == ["sub/mine.yaml"]
    assert complete_recipe("nowhere/") == []


def test_backbones_are_offered() -> None:
    assert "beit3-base" in complete_backbone("beit3-b")
    assert {name[:4] for name in complete_backbone("clip")} == {"clip"}


def test_recipe_options_are_offered_with_their_default_or_each_word_they_may_be() -> None:
    assert complete_override("train.wa") == ["train.warmup=0.1"]
    assert complete_override("data.nam") == ["data.name="]
    assert complete_override("train.precision=") == [
        f"train.precision={word}" for word in ("auto", "fp32", "bf16", "fp16")
    ]
    assert complete_override("train.precision=b") == ["train.precision=bf16"]
    assert complete_override("trian") == []


def test_what_goes_wrong_while_completing_is_silent(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complete_data("") == []
    empty_home.mkdir()
    (empty_home / "data.json").write_text("{")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: {}["gone"])
    assert (complete_data(""), complete_recipe("\0"), complete_recipe("a" * 5000)) == ([], [], [])
    assert capsys.readouterr() == ("", "")


_PROTOCOLS = {
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": words},
    "fish": lambda words: {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    "bash": lambda words: {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
}
"""What the script that Typer installs for a shell tells the command, of the words typed so far."""


def asked(shell: str, words: str, **environment: str) -> str:
    """What is offered in a shell."""
    told = {"_MWACTL_COMPLETE": f"complete_{shell}", **_PROTOCOLS[shell](words), **environment}
    command = [sys.executable, "-m", "mwactl"]
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_answered(registry: Registry, shell: str) -> None:
    assert "zebra@1" in asked(shell, "mwactl eval zeb", MWACTL_REGISTRY=str(registry.root))


_OFFERS = {
    "REF": ("zeb", "zebra"),
    "RECIPE": ("flickr8", "flickr8k"),
    "OPTION=VALUE": ("train.wa", "train.warmup=0.1"),
    "--data": ("zo", "zoo"),
    "--zero-shot": ("zo", "zoo"),
    "--backbone": ("beit3-l", "beit3-large"),
}
"""What a parameter is called in the help → what is typed, and what must be offered."""
_MOVED = {"--backbone of export", "--backbone of merge", "--backbone of embed", "--backbone of search"}
"""These take the place that a folder has now."""


def parameters(command: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every parameter below a command: what it is called, the command, itself."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, f"{path} {name}".strip())
    for parameter in [] if hasattr(command, "commands") else command.params:
        is_option = parameter.opts[0].startswith("-")
        yield parameter.opts[0] if is_option else re.split(r"[\]… ]", parameter.metavar.strip("["))[0], path, parameter


@pytest.mark.usefixtures("registry", "catalogue")
def test_every_command_completes_what_it_takes() -> None:
    takes = [found for found in parameters(get_command(app)) if found[0] in _OFFERS]
    assert len(takes) > 25
    lacking = []
    for called, command, parameter in takes:
        typed, expected = _OFFERS[called]
        offered = [item.value for item in parameter.shell_complete(None, typed)]
        if expected not in offered and f"{called} of {command}" not in _MOVED:
            lacking.append(f"{called} of {command}")
    assert not lacking


def test_completing_imports_nothing_heavy_and_no_manifest_is_read(registry: Registry) -> None:
    for blob in (registry.root / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    program = (
        "import sys; from mwactl.cli import completion as offer; print(offer.complete_reference('z'));"
        "offer.complete_data(''), offer.complete_recipe(''), offer.complete_backbone('');"
        "print(sorted({'torch', 'numpy', 'pydantic', 'filelock', 'yaml'} & set(sys.modules)));"
        "offer.complete_override(''); print({'torch', 'numpy'} & set(sys.modules))"
    )
    environment = os.environ | {"MWACTL_REGISTRY": str(registry.root)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "['zebra', 'zebra@1']\n[]\nset()\n"
