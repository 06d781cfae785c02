from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mwactl.data import Catalogue, hash_cache
from mwactl.progress import Silent
from mwactl.workflow.data_check import DataCheck, check_data

Row = tuple[str, str, str]


def photograph(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path: Path) -> Callable[[list[Row]], str]:
    """Add rows of (image, caption, split) as a data set; gives its name."""
    for number in range(6):
        photograph(number).save(tmp_path / f"{number}.png")

    def add(rows: list[Row]) -> str:
        with (tmp_path / "d.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "caption", "split"), *rows])
        Catalogue.default().add("d", annotations=tmp_path / "d.csv")
        return "d"

    return add


def found(check: DataCheck) -> dict[str, list[str]]:
    return {finding.check: list(finding.places) for finding in check.findings}


def look(name: str, **options: object) -> DataCheck:
    return check_data(name, reporter=Silent(), **options)  # type: ignore[arg-type]


SOUND = [("0.png", "a cat", "train"), ("1.png", "a dog", "train"), ("2.png", "a bird", "test")]


def test_a_sound_data_set_has_nothing(data) -> None:
    check = look(data(SOUND))
    assert check.findings == []
    assert not check.failed(strict=True)
    assert check.splits == {"train": (2, 2), "test": (1, 1)}


def test_pictures_that_cannot_be_opened(data, tmp_path: Path) -> None:
    name = data(SOUND)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "2.png").unlink()
    check = look(name)
    assert [place.split(": ")[0] for place in found(check)["unreadable pictures"]] == [
        str(tmp_path / "1.png"), str(tmp_path / "2.png"),
    ]  # fmt: skip
    assert check.failed(strict=False)


def test_captions_that_say_nothing(data) -> None:
    check = look(data([*SOUND, ("1.png", " .,- ", "train"), ("2.png", "🐦", "test")]))
    [place] = found(check)["empty captions"]
    assert place.startswith("train: ")
    assert place.endswith("1.png: ' .,- '")
    assert check.failed(strict=False)


def test_captions_twice_are_warnings(data) -> None:
    check = look(data([*SOUND, ("1.png", "A  dog", "train"), ("0.png", "a dog", "train"), ("2.png", "a cat", "test")]))
    assert [place.split("/")[-1] for place in found(check)["duplicate captions"]] == ["1.png: 'a dog', 2 times"]
    assert found(check)["shared captions"] == ["train: 'a dog', of 2 pictures"]
    assert not check.failed(strict=False)
    assert check.failed(strict=True)


def test_the_same_bytes_in_two_splits_and_twice_in_one(data, tmp_path: Path) -> None:
    for copy, original in (("3.png", "2.png"), ("4.png", "0.png")):
        (tmp_path / copy).write_bytes((tmp_path / original).read_bytes())
    check = look(data([*SOUND, ("3.png", "another bird", "train"), ("4.png", "another cat", "train")]))
    assert found(check) == {
        "pictures in two splits": [f"train: {tmp_path / '3.png'} = test: {tmp_path / '2.png'}"],
        "duplicate pictures": [f"train: {tmp_path / '0.png'} = {tmp_path / '4.png'}"],
    }
    assert check.failed(strict=False)


def test_one_file_in_two_splits(data, tmp_path: Path) -> None:
    check = look(data([*SOUND, ("2.png", "a bird again", "train")]))
    assert found(check) == {"pictures in two splits": [f"train: {tmp_path / '2.png'} = test: {tmp_path / '2.png'}"]}


def near_copy(tmp_path: Path, of: int, to: str) -> None:
    file = io.BytesIO()
    photograph(of).resize((50, 50)).save(file, "JPEG", quality=40)
    (tmp_path / to).write_bytes(file.getvalue())


def test_pictures_of_two_splits_that_look_the_same(data, tmp_path: Path) -> None:
    near_copy(tmp_path, 0, "near.jpg")
    near_copy(tmp_path, 2, "within.jpg")
    name = data([*SOUND, ("near.jpg", "that cat", "test"), ("within.jpg", "that bird", "test")])
    check = look(name)
    [place] = found(check)["near duplicates"]
    assert place.startswith(f"train: {tmp_path / '0.png'} ~ test: {tmp_path / 'near.jpg'} (")
    assert not check.failed(strict=False)
    assert look(name, splits=["test"]).findings == []


def test_copies_are_compared_once_and_a_split_named_twice_is_one(data, tmp_path: Path) -> None:
    near_copy(tmp_path, 0, "near.jpg")
    copies = [f"copy-{number}.png" for number in range(5)]
    for copy in copies:
        (tmp_path / copy).write_bytes((tmp_path / "0.png").read_bytes())
    name = data([*SOUND, ("near.jpg", "that cat", "test"), *((copy, f"a {copy}", "train") for copy in copies)])
    places = found(look(name))
    assert len(places["near duplicates"]) == 1
    assert len(places["duplicate pictures"]) == 1
    assert found(look(name, splits=["test", "test"])) == {}


def test_the_hashes_are_made_once(data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near_copy(tmp_path, 0, "near.jpg")
    name = data([*SOUND, ("near.jpg", "that cat", "test")])
    before = found(look(name))
    with monkeypatch.context() as context:
        context.setattr(hash_cache, "perceptual_hash", lambda _: pytest.fail("a picture was hashed again"))
        assert found(look(name)) == before
    for path in (tmp_path / "mwactl-home" / "cache" / "perceptual").iterdir():
        path.write_text('{"version": 1, "hashes": {"0": "zz"}}')
    assert found(look(name)) == before


def test_annotations_with_mistakes_are_a_finding(data, tmp_path: Path) -> None:
    name = data(SOUND)
    with (tmp_path / "d.csv").open("a") as file:
        file.write("1.png,,train\n")
    check = look(name)
    assert [finding.check for finding in check.findings] == ["annotations"]
    assert "d.csv:5: empty caption" in check.findings[0].places[0]
    assert check.failed(strict=False)
