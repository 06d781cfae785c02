from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mwactl.data import Catalogue
from mwactl.errors import DataError, NotFoundError, UsageError
from mwactl.progress import Silent
from mwactl.workflow.data_split import Division, SplitOptions, split_data

PICTURES = 40


def photograph(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures with two captions each in one split: 10 to 13 the same, 20 looks as 21, 30 and 31 are one colour."""
    folder = tmp_path_factory.mktemp("to-divide")
    for number in range(PICTURES):
        photograph(10 if number in (11, 12, 13) else number).save(folder / f"{number:02}.png")
    photograph(20).resize((60, 44)).save(folder / "21.png")
    for name in ("30.png", "31.png"):  # without a perceptual hash
        Image.new("RGB", (30, 30), "teal").save(folder / name)
    rows = [(f"{number:02}.png", f"{which} of {number}") for number in range(PICTURES) for which in ("first", "second")]
    with (folder / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return folder


@pytest.fixture
def pool(folder: Path) -> str:
    Catalogue.default().add("pool", annotations=folder / "d.csv")
    return "pool"


def divide(
    name: str, *, new_name: str | None = None, replace: bool = False, dry_run: bool = False, **options: Any
) -> Division:
    chosen = SplitOptions(**options)
    return split_data(name, chosen, new_name=new_name, replace=replace, dry_run=dry_run, reporter=Silent())


def members(name: str) -> dict[str, set[str]]:
    entry = Catalogue.default().get(name)
    return {split: {image.name for image in entry.load(split).images} for split in entry.splits()}


def test_every_picture_is_in_one_split_with_its_captions(pool: str) -> None:
    made = divide(pool, val=0.1, test=0.2)
    assert made.entry.name == "pool-split"
    assert made.splits == {"train": (28, 56), "val": (4, 8), "test": (8, 16)}
    splits = members("pool-split")
    assert {split: len(own) for split, own in splits.items()} == {"train": 28, "val": 4, "test": 8}
    assert len(set.union(*splits.values())) == PICTURES
    assert Catalogue.default().get("pool-split").load("test").captions_of()[0] == [0, 1]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_the_same_or_looks_so_stays_together(pool: str, seed: int) -> None:
    made = divide(pool, val=0.2, test=0.3, seed=seed)
    assert made.kept_together == 5
    of = {name: split for split, own in members("pool-split").items() for name in own}
    assert len({of[f"{number}.png"] for number in (10, 11, 12, 13)}) == 1
    assert of["20.png"] == of["21.png"]
    assert of["30.png"] == of["31.png"]


def test_the_same_seed_gives_the_same_and_another_another(pool: str) -> None:
    divide(pool)
    first = members("pool-split")
    divide(pool)
    assert members("pool-split") == first
    divide(pool, seed=1, new_name="other")
    assert members("other") != first


def test_names_and_order_of_the_files_do_not_matter(pool: str, folder: Path, tmp_path: Path) -> None:
    divide(pool, val=0.2, test=0.3)
    rows = []
    for number in reversed(range(PICTURES)):
        shutil.copy(folder / f"{number:02}.png", tmp_path / f"x{97 * number % 101}.png")
        rows.append((f"x{97 * number % 101}.png", "a caption", "val" if number % 2 else "train"))
    with (tmp_path / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    Catalogue.default().add("moved", annotations=tmp_path / "d.csv")
    divide("moved", val=0.2, test=0.3)
    assert {
        split: {f"x{97 * int(name[:2]) % 101}.png" for name in own} for split, own in members("pool-split").items()
    } == members("moved-split")


def test_a_divided_one_is_divided_from_its_source(pool: str) -> None:
    divide(pool)
    made = divide("pool-split", seed=3, new_name="again")
    assert sum(images for images, _ in made.splits.values()) == PICTURES
    divide(pool, seed=3, new_name="directly")
    assert members("again") == members("directly")


def test_a_row_that_is_in_two_splits_is_taken_once(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "own")
    with (tmp_path / "own" / "d.csv").open("w") as file:
        rows = [f"{number:02}.png,a caption,{split}" for split in ("train", "val") for number in range(PICTURES)]
        file.write("\n".join(["image,caption,split", *rows, "00.png,another,val"]))
    Catalogue.default().add("own", annotations=tmp_path / "own" / "d.csv")
    made = divide("own")
    assert sum(images for images, _ in made.splits.values()) == PICTURES
    entry = Catalogue.default().get("own-split")
    assert sum(len(entry.load(split).captions) for split in entry.splits()) == PICTURES + 1


def test_no_share_no_split(pool: str) -> None:
    assert set(divide(pool, val=0, test=0.25).splits) == {"train", "test"}


@pytest.mark.parametrize("shares", [(0, 0), (0.5, 0.5), (-0.1, 0.3), (1.0, 0)])
def test_shares_that_divide_nothing_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="do not divide anything"):
        SplitOptions(*shares)


def test_too_few_pictures_are_told(pool: str) -> None:
    with pytest.raises(DataError, match="too few pictures"):
        divide(pool, val=0.001)
    assert [entry.name for entry in Catalogue.default().entries()] == ["pool"]


def test_a_dry_run_writes_nothing(pool: str, empty_home: Path) -> None:
    made = divide(pool, dry_run=True)
    assert made.splits["test"] == (4, 8)
    assert not (empty_home / "splits").exists()
    assert [entry.name for entry in Catalogue.default().entries()] == ["pool"]


def test_a_name_stands_for_one_division_unless_replaced(pool: str) -> None:
    divide(pool)
    first = members("pool-split")
    with pytest.raises(UsageError, match="--replace"):
        divide(pool, seed=1)
    Catalogue.default().add("other", annotations=Catalogue.default().get(pool).annotations)
    with pytest.raises(UsageError, match="another data set 'other'"):
        divide(pool, new_name="other")
    with pytest.raises(UsageError, match="'pool' is what is divided"):
        divide(pool, new_name="pool", replace=True)
    assert members("pool-split") == first
    divide(pool, seed=1, replace=True)
    assert members("pool-split") != first


def test_a_source_that_changed_is_told(pool: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "own")
    Catalogue.default().add("own", annotations=tmp_path / "own" / "d.csv")
    divide("own", val=0.2, test=0.25, seed=7)
    with (tmp_path / "own" / "d.csv").open("a") as file:
        file.write("new.png,a caption\n")
    with pytest.raises(
        DataError,
        match=r"1 pictures are new, 0 are gone.*mwactl data split own --as own-split "
        r"--val 0.2 --test 0.25 --seed 7 --distance 8 --replace",
    ):
        Catalogue.default().get("own-split").load("train")


@pytest.mark.parametrize("content", [None, b"{", b'{"schema": 2}', b'{"schema": 1, "source": {}}'])
def test_an_index_that_is_gone_or_damaged_is_told(pool: str, content: bytes | None) -> None:
    divide(pool)
    index = Catalogue.default().get("pool-split").annotations
    assert index is not None
    if content is None:
        index.unlink()
    else:
        index.write_bytes(content)
    with pytest.raises(NotFoundError if content is None else DataError, match="index of these splits") as told:
        Catalogue.default().get("pool-split").load("train")
    assert str(told.value.fix).endswith("mwactl data split pool --as pool-split --replace")
    divide(pool, new_name="pool-split", replace=True)
    assert members("pool-split")
