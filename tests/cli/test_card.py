from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.registry import Entry, Registry

Cli = Callable[..., Any]


@pytest.fixture
def entry() -> Entry:
    """Trained and evaluated; its licence is not known."""
    registry = Registry.default()
    facts = {"method": {"name": "mwa"}, "base": {"backbone": "clip-tiny-emoji"}, "train": {"steps": 5}}
    entry = registry.publish("coco-mwa", kind="adapter", files={}, facts=facts, verb="train")
    data = {"name": "coco", "split": "test", "digest": "d" * 64}
    registry.attach(entry, "evaluation", {"data": data, "rsum": 512.4, "protocol": "full"})
    return entry


@pytest.fixture
def licensed(entry: Entry) -> Entry:
    Registry.default().tag(entry, {"license": "mit"})
    return entry


def test_the_card_goes_to_stdout(entry: Entry, mwactl_cli: Cli) -> None:
    result = mwactl_cli("card", "coco-mwa@1")
    assert result.code == 0
    assert result.stdout.startswith("---\nlibrary_name: mwactl\n")
    assert "\n# coco-mwa\n" in result.stdout
    assert "next: mwactl card coco-mwa@1 --check" in result.stderr


def test_the_card_of_the_newest_version_is_made_where_none_is_named(licensed: Entry, mwactl_cli: Cli) -> None:
    assert mwactl_cli("card", "-q").stdout == "coco-mwa@1\n"


def test_the_card_is_written_to_a_file_and_never_over_another(licensed: Entry, mwactl_cli: Cli, tmp_path: Path) -> None:
    readme = tmp_path / "new" / "README.md"
    result = mwactl_cli("card", "coco-mwa", "-o", readme)
    assert (result.code, result.stdout) == (0, f"wrote {readme}\n")
    assert readme.read_text("utf-8").startswith("---\nlicense: mit\n")
    readme.write_text("mine")
    refused = mwactl_cli("card", "coco-mwa", "-o", readme)
    assert (refused.code, readme.read_text()) == (2, "mine")
    assert "add --force" in refused.stderr
    assert mwactl_cli("card", "coco-mwa", "-o", readme, "--force", "-q").stdout == f"{readme}\n"
    assert readme.read_text("utf-8").startswith("---\nlicense: mit\n")
    folder = mwactl_cli("card", "coco-mwa", "-o", tmp_path)
    assert folder.code == 2
    assert f"fix: mwactl card coco-mwa@1 -o {tmp_path / 'README.md'}" in folder.stderr


def test_a_dry_run_writes_nothing(licensed: Entry, mwactl_cli: Cli, tmp_path: Path) -> None:
    result = mwactl_cli("card", "coco-mwa", "-o", tmp_path / "README.md", "--dry-run")
    assert result.code == 0
    assert "would write" in result.stdout
    assert not (tmp_path / "README.md").exists()


def test_check_lists_what_is_missing_and_fails_where_it_is_needed(
    entry: Entry, mwactl_cli: Cli, tmp_path: Path
) -> None:
    result = mwactl_cli("card", "coco-mwa", "--check", "-o", tmp_path / "README.md")
    assert result.code == 5
    assert result.stdout.startswith(
        "needed  the licence is not known\n        mwactl registry tag coco-mwa@1 license=apache-2.0\nwanted  "
    )
    assert "wanted  there is no evaluation that was checked to be zero-shot\n" in result.stdout
    assert "error: the card of coco-mwa@1 should not be published yet" in result.stderr
    assert not (tmp_path / "README.md").exists(), "a card that fails the check is not written"


def test_check_passes_where_only_wishes_are_left(licensed: Entry, mwactl_cli: Cli, tmp_path: Path) -> None:
    result = mwactl_cli("card", "coco-mwa", "--check", "-o", tmp_path / "README.md")
    assert result.code == 0
    assert "needed" not in result.stdout
    assert result.stdout.endswith(f"wrote {tmp_path / 'README.md'}\n")
    assert "next: mwactl card coco-mwa@1 -o README.md" in mwactl_cli("card", "coco-mwa", "--check").stderr


def test_the_command_that_a_gap_names_closes_it(entry: Entry, mwactl_cli: Cli) -> None:
    document = mwactl_cli("card", "coco-mwa", "--json").json
    (needed,) = [gap for gap in document["missing"] if gap["needed"]]
    assert mwactl_cli(*needed["fix"].split()[1:]).code == 0
    assert mwactl_cli("card", "coco-mwa", "--check").code == 0


def test_json_has_the_card_its_front_matter_and_what_is_missing(entry: Entry, mwactl_cli: Cli) -> None:
    result = mwactl_cli("card", "coco-mwa", "--json", "--check")
    document = result.json
    assert result.code == 5
    assert (document["schema"], document["reference"], document["publishable"]) == (1, "coco-mwa@1", False)
    assert (document["path"], document["written"]) == (None, False)
    assert document["metadata"]["library_name"] == "mwactl"
    assert document["text"].startswith("---\n")
    assert document["missing"][0]["what"] == "the licence is not known"


def test_an_adapter_that_is_not_there_is_not_found(mwactl_cli: Cli) -> None:
    assert mwactl_cli("card", "absent").code == 3


def test_a_place_that_cannot_be_written_to_is_an_error(licensed: Entry, mwactl_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = mwactl_cli("card", "coco-mwa", "-o", tmp_path / "file" / "README.md")
    assert (result.code, result.stdout) == (2, "")
    assert "cannot be written to" in result.stderr


def test_card_help_ends_with_an_example(mwactl_cli: Cli) -> None:
    assert "Example: mwactl card coco-mwa@3" in mwactl_cli("card", "--help").stdout


def test_making_a_card_loads_no_torch(licensed: Entry) -> None:
    program = (
        "import sys; from mwactl.cli.app import app; app(['card', 'coco-mwa'], standalone_mode=False);"
        "print(sorted({'torch', 'numpy', 'huggingface_hub', 'filelock'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("[]\n")
