"""`mwactl registry alias, tag, rm, log, list, add FOLDER`: what is printed, and the exit codes."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.files import canonical_json
from mwactl.registry import Entry, Registry

Cli = Callable[..., Any]


@pytest.fixture
def registry() -> Registry:
    """Three versions of coco-mwa."""
    registry = Registry.default()
    for number in range(3):
        publish(registry, data=bytes([number]))
    return registry


def publish(registry: Registry, name: str = "coco-mwa", data: bytes = b"tensors") -> Entry:
    facts = {"base": {"backbone": "beit3-large"}, "method": {"name": "mwa"}}
    return registry.publish(name, kind="adapter", files={"adapter.safetensors": data}, facts=facts, verb="train")


def test_alias_says_what_changed_and_how_to_undo_it(mwactl_cli: Cli, registry: Registry) -> None:
    first = mwactl_cli("registry", "alias", "coco-mwa@1", "prod")
    assert first.stdout == "prod: none → coco-mwa@1   undo: mwactl registry alias coco-mwa prod --delete\n"
    moved = mwactl_cli("registry", "alias", "coco-mwa", "prod")
    assert moved.stdout == "prod: coco-mwa@1 → coco-mwa@3   undo: mwactl registry alias coco-mwa@1 prod\n"
    assert "next: mwactl registry show coco-mwa:prod" in moved.stderr
    assert mwactl_cli("registry", "alias", "coco-mwa@3", "prod").stdout == "prod: coco-mwa@3   (unchanged)\n"
    assert mwactl_cli("registry", "alias", "coco-mwa:prod", "best", "-q").stdout == "coco-mwa:best\n"
    assert mwactl_cli("registry", "show", "coco-mwa:best", "-q").stdout == "coco-mwa@3\n"
    deleted = mwactl_cli("registry", "alias", "coco-mwa", "prod", "--delete")
    assert deleted.stdout == "prod: coco-mwa@3 → none   undo: mwactl registry alias coco-mwa@3 prod\n"


def test_alias_as_json_and_as_a_dry_run(mwactl_cli: Cli, registry: Registry) -> None:
    document = mwactl_cli("registry", "alias", "coco-mwa@1", "prod", "--dry-run", "--json").json
    assert (document["schema"], document["dry_run"]) == (1, True)
    (change,) = document["changes"]
    assert (change["old"], change["new"]["version"], change["new"]["alias"]) == (None, 1, "prod")
    assert registry.aliases("coco-mwa") == {}
    assert mwactl_cli("registry", "alias", "coco-mwa@1", "prod", "--dry-run").stdout.splitlines() == [
        "prod: none → coco-mwa@1", "nothing written (dry run)",
    ]  # fmt: skip


def test_tag_says_what_changed_and_how_to_undo_it(mwactl_cli: Cli, registry: Registry) -> None:
    first = mwactl_cli("registry", "tag", "coco-mwa@1", "reviewed-by=ann", "note=a b=c")
    assert first.stdout == (
        "coco-mwa@1: none → reviewed-by=ann, note=a b=c   "
        "undo: mwactl registry tag coco-mwa@1 --delete reviewed-by --delete note\n"
    )
    second = mwactl_cli("registry", "tag", "coco-mwa@1", "--delete", "note", "--delete", "note", "split=val")
    assert "undo: mwactl registry tag coco-mwa@1 'note=a b=c' --delete split" in second.stdout
    assert registry.tags("coco-mwa") == {1: {"reviewed-by": "ann", "split": "val"}}
    rows = mwactl_cli("registry", "list", "--json").json["entries"]
    assert [row["tags"] for row in rows] == [{}, {}, {"reviewed-by": "ann", "split": "val"}]
    shown = mwactl_cli("registry", "show", "coco-mwa@1", "--json").json
    assert (shown["aliases"], shown["tags"]) == ([], {"reviewed-by": "ann", "split": "val"})


def test_rm_needs_a_yes_where_nobody_can_be_asked(mwactl_cli: Cli, registry: Registry) -> None:
    refused = mwactl_cli("registry", "rm", "coco-mwa@1", "coco-mwa@2")
    assert (refused.code, refused.stdout) == (2, "")
    assert "fix: mwactl registry rm coco-mwa@1 coco-mwa@2 --yes" in refused.stderr
    assert len(registry.entries()) == 3
    done = mwactl_cli("registry", "rm", "coco-mwa@1", "coco-mwa@2", "coco-mwa@1", "--yes")
    assert done.stdout.splitlines() == [
        "removed coco-mwa@1   undo: mwactl registry rm --undo coco-mwa@1",
        "removed coco-mwa@2   undo: mwactl registry rm --undo coco-mwa@2",
    ]
    undone = mwactl_cli("registry", "rm", "--undo", "coco-mwa@1", "coco-mwa@2", "-q")
    assert (undone.code, undone.stdout) == (0, "coco-mwa@1\ncoco-mwa@2\n")
    assert len(registry.entries()) == 3


@pytest.mark.parametrize(("answer", "code", "left"), [(True, 0, 2), (False, 2, 3)])
def test_rm_asks_on_a_terminal(
    mwactl_cli: Cli, registry: Registry, monkeypatch: pytest.MonkeyPatch, answer: bool, code: int, left: int
) -> None:
    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda question, err: asked.append((question, err)) or answer)
    assert mwactl_cli("registry", "rm", "coco-mwa@1").code == code
    assert asked == [("remove coco-mwa@1?", True)]
    assert len(registry.entries()) == left


def test_rm_removes_nothing_if_one_of_several_may_not_go(mwactl_cli: Cli, registry: Registry) -> None:
    registry.alias("coco-mwa", "prod", 2)
    refused = mwactl_cli("registry", "rm", "coco-mwa@1", "coco-mwa@2", "--yes")
    assert refused.code == 2
    assert "coco-mwa@2 has an alias: prod" in refused.stderr
    assert mwactl_cli("registry", "rm", "coco-mwa@1", "coco-mwa@9", "--yes").code == 3
    assert len(registry.entries()) == 3
    dry = mwactl_cli("registry", "rm", "coco-mwa:prod", "--force", "--dry-run")
    assert dry.stdout.splitlines() == [
        "prod: coco-mwa@2 → none", "removed coco-mwa@2", "nothing written (dry run)",
    ]  # fmt: skip
    assert len(registry.entries()) == 3
    assert mwactl_cli("registry", "rm", "coco-mwa:prod", "--force", "--yes").code == 0
    assert [entry.version for entry in registry.entries()] == [3, 1]


def test_log_tells_everything_a_line_each_and_how_to_undo_it(mwactl_cli: Cli, registry: Registry) -> None:
    registry.alias("coco-mwa", "prod", 1)
    registry.attach(registry.resolve("coco-mwa@1"), "evaluation", {})
    registry.remove(registry.resolve("coco-mwa@3"))
    publish(registry, "zebra")
    lines = [line.split("  ", 2) for line in mwactl_cli("registry", "log", "coco-mwa").stdout.splitlines()]
    assert [rest for _, _, rest in lines] == [
        "train  coco-mwa@1   undo: mwactl registry rm coco-mwa@1",
        "train  coco-mwa@2   undo: mwactl registry rm coco-mwa@2",
        "train  coco-mwa@3   undo: mwactl registry rm coco-mwa@3",
        "alias  prod: none → coco-mwa@1   undo: mwactl registry alias coco-mwa prod --delete",
        "attach  evaluation of coco-mwa@1",
        "remove  coco-mwa@3   undo: mwactl registry rm --undo coco-mwa@3",
    ]
    assert all(re.fullmatch(r"\S+@\S+", who) for _, who, _ in lines)
    assert sorted(time for time, _, _ in lines) == [time for time, _, _ in lines]
    assert len(mwactl_cli("registry", "log").stdout.splitlines()) == 7
    assert len(mwactl_cli("registry", "log", "coco-mwa@3").stdout.splitlines()) == 2
    document = mwactl_cli("registry", "log", "coco-mwa", "--json").json
    assert document["schema"] == 1
    kept = ("time", "user", "host", "verb", "old", "new")
    assert [{key: line[key] for key in kept} for line in document["lines"]] == registry.history("coco-mwa")


def test_log_of_an_adapter_without_versions_is_still_there(mwactl_cli: Cli, registry: Registry) -> None:
    for entry in registry.entries():
        registry.remove(entry)
    assert len(mwactl_cli("registry", "log", "coco-mwa").stdout.splitlines()) == 6
    assert mwactl_cli("registry", "list").stdout == ""


def test_a_damaged_line_of_the_log_is_warned_about_and_hides_no_other(mwactl_cli: Cli, registry: Registry) -> None:
    path = registry.root / "refs/coco-mwa/log.jsonl"
    path.write_bytes(path.read_bytes().replace(b"train", b"trail", 1))
    result = mwactl_cli("registry", "log", "coco-mwa")
    assert len(result.stdout.splitlines()) == 2
    assert "warning: line 1 of" in result.stderr


def test_damaged_labels_are_warned_about_and_hide_no_version(mwactl_cli: Cli, registry: Registry) -> None:
    registry.alias("coco-mwa", "prod", 1)
    registry.tag(registry.resolve("coco-mwa@1"), {"split": "val"})
    for path in (registry.root / "refs/coco-mwa/tags.json", registry.root / "refs/coco-mwa/aliases/prod"):
        path.chmod(0o644)
        path.write_bytes(b"rot")
    result = mwactl_cli("registry", "list")
    assert (result.code, len(result.stdout.splitlines())) == (0, 3)
    assert "warning: the alias coco-mwa:prod is corrupt" in result.stderr
    assert "warning: the tags of coco-mwa are damaged" in result.stderr
    assert len(mwactl_cli("registry", "list", "--json").json["problems"]) == 2
    assert mwactl_cli("registry", "tag", "coco-mwa@1", "a=b").code == 5
    assert mwactl_cli("registry", "show", "coco-mwa:prod").code == 5
    assert mwactl_cli("registry", "alias", "coco-mwa@1", "prod").stdout.startswith("prod: damaged → coco-mwa@1")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["alias", "coco-mwa@9", "prod"], 3),
        (["alias", "coco-mwa", "latest"], 2),
        (["alias", "coco-mwa", "prod", "--delete"], 3),
        (["alias", "coco-mwa@1", "prod", "--delete"], 2),
        (["alias", "./folder", "prod"], 2),
        (["tag", "coco-mwa"], 2),
        (["tag", "coco-mwa", "word"], 2),
        (["tag", "coco-mwa", "--delete", "split"], 3),
        (["tag", "other", "a=b"], 3),
        (["rm", "other", "--yes"], 3),
        (["rm", "--undo", "coco-mwa"], 2),
        (["rm", "--undo", "coco-mwa@1"], 3),
        (["log", "other"], 3),
        (["add"], 2),
        (["add", "./absent"], 3),
        (["add", "./absent", "--from-authors", "x.pth"], 2),
        (["add", "./absent", "--alpha", "0.1"], 2),
    ],
)
def test_what_cannot_be_done_has_its_exit_code_and_a_next_step_and_changes_nothing(
    mwactl_cli: Cli, registry: Registry, arguments: list[str], code: int
) -> None:
    before = sorted(str(path) for path in registry.root.rglob("*"))
    result = mwactl_cli("registry", *arguments)
    assert (result.code, result.stdout) == (code, "")
    assert "fix: " in result.stderr
    assert sorted(str(path) for path in registry.root.rglob("*")) == before


@pytest.mark.parametrize("width", [80, 200])
def test_list_fits_the_terminal_and_drops_columns_rather_than_wrap(
    mwactl_cli: Cli, registry: Registry, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    for alias in ("prod", "best", "flickr-zero-shot", "reviewed"):
        registry.alias("coco-mwa", alias, 2)
    registry.tag(registry.resolve("coco-mwa@3"), {"note": "x" * 100, "split": "val"})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: __import__("os").terminal_size((width, 24)))
    lines = mwactl_cli("registry", "list").stdout.splitlines()
    assert max(map(len, lines)) <= width
    headings = ["NAME", "VER", "ALIASES", "BASE", "METHOD", "SIZE"]
    wide = ["t2i", "R@1", "CREATED", "TAGS"]
    assert lines[0].split()[:6] == headings
    assert (lines[0].split()[6:] == wide) == (width == 200)
    assert "best, flickr-zero-shot, prod, r…" in lines[2], "a long cell leaves room for the others"


@pytest.fixture
def folder(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`coco-mwa@2` as a folder in the current directory."""
    entry = registry.resolve("coco-mwa@2")
    monkeypatch.chdir(tmp_path)
    found = tmp_path / "Their-Adapter"
    found.mkdir()
    (found / "manifest.json").write_bytes(canonical_json(entry.manifest))
    (found / "adapter.safetensors").write_bytes(registry.read(entry, "adapter.safetensors"))
    return found


def test_add_takes_a_folder_over_with_its_digest(
    mwactl_cli: Cli, registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.resolve("coco-mwa@2").digest
    monkeypatch.setenv("MWACTL_REGISTRY", str(folder.parent / "another"))
    planned = mwactl_cli("registry", "add", "./Their-Adapter", "--dry-run")
    assert planned.code == 0
    assert planned.stdout.splitlines()[-1] == "nothing written (dry run)"
    assert not (folder.parent / "another").exists()
    assert mwactl_cli("registry", "add", "./Their-Adapter", "-q").stdout == "their-adapter@1\n"
    document = mwactl_cli("registry", "add", "Their-Adapter", "--name", "ours", "--json").json
    assert (document["reference"], document["digest"]) == ("ours@1", digest)
    assert mwactl_cli("registry", "show", "ours", "--json").json["digest"] == digest
    assert [line["verb"] for line in Registry.default().history("ours")] == ["add"]


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_add_refuses_a_folder_with_changed_bytes(
    mwactl_cli: Cli, registry: Registry, folder: Path, dry_run: list[str]
) -> None:
    (folder / "adapter.safetensors").write_bytes(b"\7")
    result = mwactl_cli("registry", "add", "./Their-Adapter", *dry_run)
    assert (result.code, result.stdout) == (5, "")
    assert "adapter.safetensors" in result.stderr
    assert "their-adapter" not in registry.names()


def test_a_folder_is_shown_without_being_added(mwactl_cli: Cli, registry: Registry, folder: Path) -> None:
    shown = mwactl_cli("registry", "show", "./Their-Adapter")
    assert shown.code == 0, shown.stderr
    assert f"sha256:{registry.resolve('coco-mwa@2').digest}" in shown.stdout
    assert registry.names() == ["coco-mwa"]


def test_a_folder_is_evaluated_and_its_result_is_not_kept(
    mwactl_cli: Cli, tiny_clip: Path, tiny_data: str, tmp_path: Path
) -> None:
    backbone = f"clip:local-dir:{tiny_clip}"
    options = ["method.mwa.knowledge_extractor=4", "method.mwa.alignment_enhancer=4"]
    assert mwactl_cli("inject", "--backbone", backbone, "--name", "tiny", *options).code == 0
    registry = Registry.default()
    entry = registry.resolve("tiny")
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(canonical_json(entry.manifest))
    for file in entry.manifest["files"]:
        (folder / file["path"]).write_bytes(registry.read(entry, file["path"]))
    evaluated = ["eval", str(folder), "--data", tiny_data, "--device", "cpu", "--backbone", backbone]
    result = mwactl_cli(*evaluated, "--json")
    assert result.code == 0, result.stderr
    assert result.json["adapter"]["digest"] == entry.digest
    assert "could not be kept" in result.stderr
    assert f"mwactl registry add {folder}" in result.stderr
    assert registry.attachments(entry, "evaluation") == []
