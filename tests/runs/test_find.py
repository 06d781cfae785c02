from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

from mwactl.errors import NotFoundError, UsageError
from mwactl.home import runs_path
from mwactl.progress import Silent
from mwactl.runs import Run, all_runs, find, find_run, read_run
from mwactl.runs.remove import remove_run
from tests.runs.conftest import start, step

A, B, C = "coco-mwa-1a2b3c4d", "coco-mwa-5e6f7a8b", "flickr-lora-00112233"


@pytest.fixture
def three(write_run) -> None:
    for age, name in ((20, A), (10, B), (30, C)):
        folder = write_run(name, start(), step(1))
        os.utime(folder / "log.jsonl", (1_000_000 - age, 1_000_000 - age))


def test_no_home_has_no_runs(empty_home):
    assert all_runs() == []


@pytest.mark.usefixtures("three")
def test_runs_are_listed_the_latest_first():
    assert [run.id for run in all_runs()] == [B, A, C]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(("typed", "found"), [(A, A), ("f", C), ("coco-mwa-5", B)])
def test_a_run_is_found_by_the_beginning_of_its_name(typed: str, found: str):
    assert find_run(typed).id == found


@pytest.mark.usefixtures("three")
def test_a_beginning_of_several_names_is_refused_and_the_newest_is_offered():
    with pytest.raises(UsageError, match="2 runs begin with 'coco'") as error:
        find_run("coco")
    assert error.value.why == f"{A}, {B}"
    assert error.value.fix == f"{B} is the newest"


@pytest.mark.usefixtures("three")
def test_a_whole_name_wins_over_names_that_begin_with_it(write_run):
    write_run(f"{A}-again", start())
    assert find_run(A).id == A


@pytest.mark.usefixtures("three")
def test_a_run_is_found_by_its_folder(tmp_path):
    copied = shutil.copytree(runs_path() / A, tmp_path / "from-a-server")
    assert find_run(str(copied)).folder == copied
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NotFoundError, match="no run is in this folder"):
            find_run(str(folder))


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("typed", ["x", ".", "..", A + "x"])
def test_what_is_no_run_is_not_found(typed: str):
    with pytest.raises(NotFoundError, match="no run"):
        find_run(typed)


@pytest.mark.usefixtures("three")
def test_removing_takes_this_run_and_the_leftovers_of_a_removal_that_was_killed():
    (runs_path() / f".removed-{A}" / "inner").mkdir(parents=True)
    assert len(all_runs()) == 3
    remove_run(find_run(A))
    assert sorted(path.name for path in runs_path().iterdir()) == [B, C]


@pytest.mark.usefixtures("three")
def test_a_run_that_is_a_link_is_removed_and_what_it_leads_to_stays(tmp_path):
    elsewhere = (runs_path() / A).rename(tmp_path / "elsewhere")
    (runs_path() / A).symlink_to(elsewhere)
    remove_run(find_run(A))
    remove_run(find_run(B))
    assert [path.name for path in runs_path().iterdir()] == [C]
    assert (elsewhere / "log.jsonl").is_file()


@pytest.mark.usefixtures("three")
def test_a_run_that_may_not_be_read_hides_no_other(monkeypatch):
    def refusing(folder: Path) -> Run:
        if folder.name == B:
            raise PermissionError(13, "Permission denied", str(folder / "log.jsonl"))
        return read_run(folder)

    class Listener(Silent):
        said: ClassVar[list[str]] = []

        def warn(self, message: str) -> None:
            self.said.append(message)

    monkeypatch.setattr(find, "read_run", refusing)
    assert [run.id for run in all_runs(Listener())] == [A, C]
    assert Listener.said == [f"the run {B} cannot be read: {runs_path() / B}/log.jsonl: Permission denied"]
