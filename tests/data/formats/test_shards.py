from __future__ import annotations

from pathlib import Path

import pytest

from mwactl.data.formats.shards import assigned_splits, shards_of
from mwactl.errors import NotFoundError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path /= "set[1]"  # where they lie is no pattern
    for name in ("000.tar", "001.tar", "010.tar", "x.txt", "deep/train-0.tar", "deep/er/train-1.tar", ".hidden.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("000.tar", ["000.tar"]),
        (".", ["000.tar", "001.tar", "010.tar", "train-1.tar", "train-0.tar"]),
        ("{000..001}.tar", ["000.tar", "001.tar"]),
        ("{010,000}.tar", ["010.tar", "000.tar"]),
        ("00?.tar", ["000.tar", "001.tar"]),
        ("{00?,01*}.tar", ["000.tar", "001.tar", "010.tar"]),
        ("*/train-{0..0}.tar", ["train-0.tar"]),
        ("**/*.tar", ["000.tar", "001.tar", "010.tar", "train-1.tar", "train-0.tar"]),
    ],
)
def test_a_file_a_folder_or_a_pattern(folder: Path, source: str, names: list[str]) -> None:
    assert [path.name for path in shards_of(folder / source, {".tar"})] == names


@pytest.mark.parametrize("source", ["absent.tar", "{000..003}.tar", "y*.tar", "deep/absent/{a,b}.tar"])
def test_what_is_missing_is_named(folder: Path, source: str) -> None:
    with pytest.raises(NotFoundError, match="data set's files are not there"):
        shards_of(folder / source, {".tar"})


@pytest.mark.parametrize("source", ["{9..1}.tar", "{0..99999999}.tar", "{0..9999}{0..9999}.tar"])
def test_a_range_that_counts_nothing_or_everything_is_refused(folder: Path, source: str) -> None:
    with pytest.raises(UsageError):
        shards_of(folder / source, {".tar"})


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a[1]{2}.tar").touch()
    assert shards_of(tmp_path / "a[1]{2}.tar", {".tar"}) == [tmp_path / "a[1]{2}.tar"]


def test_splits_are_told_by_the_first_word_or_the_folder(tmp_path: Path) -> None:
    names = ["train-00000-of-00002.parquet", "validation/data-0.arrow", "dev_1.tar", "deep/test/0.tar", "trainer.tar"]
    splits = assigned_splits([tmp_path / name for name in names], tmp_path)
    assert list(splits.values()) == ["train", "val", "val", "test", None]


def test_without_any_such_name_it_is_all_one_split(tmp_path: Path) -> None:
    assert assigned_splits([tmp_path / "a.tar", tmp_path / "b.tar"], tmp_path) == {
        tmp_path / "a.tar": "all", tmp_path / "b.tar": "all",
    }  # fmt: skip


def test_where_a_data_set_lies_says_nothing(tmp_path: Path) -> None:
    base = tmp_path / "test" / "train"
    base.mkdir(parents=True)
    for source in (base, base / "0.tar", base / "{0..1}.tar"):
        assert assigned_splits([base / "0.tar"], source) == {base / "0.tar": "all"}
    open_folder = assigned_splits([base / "0.tar"], base.parent.parent / "{test,val}" / "train" / "*.tar")
    assert open_folder == {base / "0.tar": "train"}
