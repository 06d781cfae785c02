from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from mwactl import scaffold
from mwactl.errors import ResourceError, UsageError
from mwactl.scaffold import scaffold_files, write_scaffold


def test_the_scaffold_is_written_under_a_name_of_its_own(tmp_path: Path) -> None:
    files = write_scaffold("two-towers", tmp_path / "plugins")
    folder = tmp_path / "plugins" / "two-towers"
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == files
    assert {str(file.relative_to(folder)) for file in files} == {
        "pyproject.toml", "tests/test_two_towers.py",
        *(f"two_towers/{module}.py" for module in ("__init__", "backbone", "model")),
    }  # fmt: skip
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "two-towers"
    assert project["entry-points"] == {"mwactl.backbones": {"two-towers": "two_towers:plugin"}}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "my-encoder" not in text and "my_encoder" not in text
        if file.suffix == ".py":
            ast.parse(text)
    assert [path.name for path in folder.parent.iterdir()] == ["two-towers"]


def test_a_name_as_in_the_tutorial_gives_the_packaged_files_as_they_are(tmp_path: Path) -> None:
    files = write_scaffold("my-encoder", tmp_path)
    packaged = scaffold_files()
    assert {file.relative_to(tmp_path / "my-encoder").as_posix(): file.read_text("utf-8") for file in files} == {
        str(path): text for path, text in packaged.items()
    }


@pytest.mark.parametrize(
    ("name", "why", "instead"),
    [
        ("My_Encoder", "a name is lower-case letters", "my-encoder"),
        ("2towers", "a name is lower-case letters", "my-2towers"),
        ("../towers", "a name is lower-case letters", "my-towers"),
        ("two--towers", "a name is lower-case letters", "my-two-towers"),
        ("", "a name is lower-case letters", "my-encoder"),
        ("a" * 49, "at most 48", f"my-{'a' * 45}"),
        ("lambda", "`lambda` is a word of Python", "my-lambda"),
        ("beit3", "a backbone of this name is installed", "my-beit3"),
        ("clip-vit-b-32", "a backbone of this name is installed", "my-clip-vit-b-32"),
        ("mwactl-clip", "a package `mwactl_clip` is installed", "my-mwactl-clip"),
        ("json", "a package `json` is installed", "my-json"),
        ("tests", "lie in a folder of this name", "my-tests"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_another(name: str, why: str, instead: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        write_scaffold(name, tmp_path)
    assert why in str(refused.value.why)
    assert refused.value.fix == f"mwactl backbones new {instead}"
    assert not list(tmp_path.iterdir())
    assert write_scaffold(instead, tmp_path)


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "two-towers").mkdir()
    with pytest.raises(UsageError, match="already there"):
        write_scaffold("two-towers", tmp_path)
    assert not list((tmp_path / "two-towers").iterdir())
    (tmp_path / "my-towers").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="already there"):
        write_scaffold("my-towers", tmp_path)


def test_a_place_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written to"):
        write_scaffold("two-towers", tmp_path / "file")


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full_disk(path: Path, data: bytes) -> None:
        if len(written) == 3:
            raise ResourceError("the disk is full")
        written.append(path)

    monkeypatch.setattr(scaffold, "atomic_write", full_disk)
    with pytest.raises(ResourceError):
        write_scaffold("two-towers", tmp_path)
    assert len(written) == 3
    assert not list(tmp_path.iterdir())
