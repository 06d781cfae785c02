from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mwactl.cli.completion import complete_reference
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


@pytest.mark.parametrize(
    "words", ["mwactl registry show zeb", "mwactl registry rm coco zeb", "mwactl registry alias zeb", "mwactl eval zeb",
              "mwactl registry tag zeb", "mwactl registry log zeb"],
)  # fmt: skip
def test_the_shell_is_given_references_for_every_command_that_takes_one(registry: Registry, words: str) -> None:
    environment = os.environ | {
        "_MWACTL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words, "MWACTL_REGISTRY": str(registry.root),
    }  # fmt: skip
    command = [sys.executable, "-m", "mwactl"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "zebra" in done.stdout, done.stderr


def test_completing_imports_no_torch_and_no_manifest_is_read(registry: Registry) -> None:
    for blob in (registry.root / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    program = (
        "import sys; from mwactl.cli.completion import complete_reference; print(complete_reference('z'));"
        "print(sorted({'torch', 'numpy', 'pydantic', 'filelock'} & set(sys.modules)))"
    )
    environment = os.environ | {"MWACTL_REGISTRY": str(registry.root)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "['zebra', 'zebra@1']\n[]\n"
