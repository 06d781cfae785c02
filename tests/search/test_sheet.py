from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mwactl.errors import UsageError
from mwactl.search.found import Found, Result
from mwactl.search.item import Item
from mwactl.search.sheet import contact_sheet


@pytest.fixture
def found(tmp_path: Path, paint) -> Found:
    colours = ["red", "lime", "blue"] * 4
    results = [
        Result(rank, 1 / rank, Item(f"{rank}.png", str(paint(tmp_path / f"{rank}.png", colour, (40, 20)))))
        for rank, colour in enumerate(colours, start=1)
    ]
    return Found("three colours", "text", results)


def test_hits_lie_from_left_to_right_and_wrap(found, tmp_path: Path):
    assert contact_sheet([found], tmp_path / "sheet.png") == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
        assert (width, height) == (2 * 20 + 10 * 160, 2 * 20 + 34 + 2 * (160 + 22))
        middles = [sheet.getpixel((20 + 160 * (i % 10) + 80, 20 + 34 + 182 * (i // 10) + 80)) for i in range(12)]
        assert middles == [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 4
        assert sheet.getpixel((20 + 80, 20 + 34 + 20)) == (255, 255, 255)  # the aspect is kept


def test_the_same_hits_give_the_same_bytes(found, tmp_path: Path):
    for name in ("a.png", "b.png"):
        contact_sheet([found, found], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_that_is_gone_is_a_grey_square_and_counted(found, tmp_path: Path):
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"damaged since")
    assert contact_sheet([found], tmp_path / "sheet.png") == 2
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((20 + 80, 20 + 34 + 80)) == (0xE4, 0xE4, 0xE4)


def test_a_query_without_hits_and_a_very_long_one_are_drawn_too(tmp_path: Path):
    contact_sheet([Found("nothing " * 200, "text", [])], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()


def test_more_queries_than_a_picture_can_show_are_refused(found, tmp_path: Path):
    with pytest.raises(UsageError, match="too many for one contact sheet"):
        contact_sheet([found] * 400, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
