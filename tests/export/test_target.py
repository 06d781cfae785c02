"""A bundle appears whole or not at all, and nothing that is no bundle is ever replaced."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from mwactl.errors import ResourceError, UsageError
from mwactl.export import target as module
from mwactl.export.target import check_free, place_of, publish, workplace


def fill(folder: Path, text: str) -> Path:
    """Something that passes for a bundle."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"kind": "mwactl-bundle"}))
    (folder / "text.onnx").write_text(text)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "coco-mwa@3-onnx"


def export(target: Path, text: str, *, force: bool = False) -> None:
    with workplace(target) as work:
        publish(fill(work / "bundle", text), target, force=force)


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_the_folder_appears_and_nothing_else(target):
    export(target, "new")
    assert (target / "text.onnx").read_text() == "new"
    assert beside(target) == [target.name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_there_is_nothing(target, error):
    with pytest.raises(error), workplace(target) as work:
        fill(work / "bundle", "new")
        raise error
    assert beside(target) == []


def test_an_empty_folder_is_filled(target):
    target.mkdir(parents=True)
    check_free(target, force=False)
    export(target, "new")
    assert (target / "text.onnx").read_text() == "new"


def test_a_bundle_is_replaced_only_by_force(target):
    export(target, "old")
    with pytest.raises(UsageError, match=r"there is a bundle already.*--force"):
        check_free(target, force=False)
    with pytest.raises(UsageError, match="there is a bundle already"):
        export(target, "new")
    assert (target / "text.onnx").read_text() == "old"
    check_free(target, force=True)
    export(target, "new", force=True)
    assert (target / "text.onnx").read_text() == "new"
    assert beside(target) == [target.name]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_what_is_no_bundle_is_never_replaced(target, kind, force):
    target.parent.mkdir()
    if kind == "folder":
        target.mkdir()
        (target / "thesis.tex").write_text("years of work")
    elif kind == "file":
        target.write_text("years of work")
    else:
        target.symlink_to(target.parent / "nowhere")
    with pytest.raises(UsageError, match="no bundle, so nothing there is replaced"):
        check_free(target, force=force)
    with pytest.raises(UsageError, match="no bundle"):
        export(target, "new", force=force)
    assert beside(target) == [target.name]


@pytest.mark.parametrize("at_once", [True, False])
def test_replacing_leaves_the_old_one_where_it_fails(target, monkeypatch, at_once):
    export(target, "old")
    if not at_once:
        monkeypatch.setattr(module, "_exchange_at_once", lambda folder, target: False)
    real = Path.replace

    def no_space(self: Path, to: Path) -> Path:
        if self.name == "bundle":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", no_space)
    if at_once:
        monkeypatch.setattr(module, "_exchange", lambda folder, target: folder.replace(target))
    with pytest.raises(ResourceError, match="the disk is full"):
        export(target, "new", force=True)
    assert (target / "text.onnx").read_text() == "old"
    assert beside(target) == [target.name]


def test_two_folders_are_swapped_where_the_system_cannot_at_once(target, monkeypatch):
    export(target, "old")
    monkeypatch.setattr(module, "_exchange_at_once", lambda folder, target: False)
    export(target, "new", force=True)
    assert (target / "text.onnx").read_text() == "new"
    assert beside(target) == [target.name]


def killed_while_working(target: Path) -> None:
    """Another process that dies in the middle, with no chance to clean up."""
    child = os.fork()
    if child == 0:
        with workplace(target) as work:
            fill(work / "bundle", "half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up(target):
    killed_while_working(target)
    assert not target.exists()
    assert beside(target) == [f".{target.name}.part"]
    with workplace(target) as work:
        assert list(work.iterdir()) == []
        publish(fill(work / "bundle", "new"), target, force=False)
    assert (target / "text.onnx").read_text() == "new"
    assert beside(target) == [target.name]


def test_two_exports_to_one_place_do_not_mix(target):
    with workplace(target) as work:
        fill(work / "bundle", "first")
        with pytest.raises(ResourceError, match="another export to this folder is running"), workplace(target):
            pytest.fail("the place is taken")
        publish(work / "bundle", target, force=False)
    assert (target / "text.onnx").read_text() == "first"


@pytest.mark.parametrize("place", ["captions.csv/x", "captions.csv/x/y", "/proc/x"])
def test_a_place_where_no_folder_can_be_is_a_mistake(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.csv").write_text("")
    with (
        pytest.raises(UsageError, match=r"cannot be written to.*choose another place"),
        workplace(place_of(Path(place))),
    ):
        pytest.fail("there is no place")


@pytest.mark.parametrize("place", ["", ".", "..", "/", "../here"])
def test_the_folder_that_the_user_is_in_is_not_replaced(tmp_path, monkeypatch, place):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match="cannot replace the folder that you are in"):
        place_of(Path(place))
    assert place_of(Path("../there")) == tmp_path / "there"


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match="cannot be written to"), workplace(tmp_path / "out" / "bundle"):
        pytest.fail("there is no place")
