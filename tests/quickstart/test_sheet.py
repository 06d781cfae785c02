"""The contact sheet: honest choice of queries, pictures where they belong, green where they are the query's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageColor, ImageFont

from mwactl.quickstart import sheet as module
from mwactl.quickstart.sheet import SheetRow, SheetTitles, contact_sheet, most_changed

GREEN = ImageColor.getrgb("#0a8f3c")
COLOURS = [(200, 30, 30), (30, 30, 200), (230, 180, 20), (150, 40, 160), (20, 160, 170), (90, 60, 30)]
TITLES = SheetTitles("title")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Six pictures, each of one colour, none of them the frame's green."""
    paths = [tmp_path / f"{i}.png" for i in range(len(COLOURS))]
    for path, colour in zip(paths, COLOURS, strict=True):
        Image.new("RGB", (64, 64), colour).save(path)
    return paths


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., Image.Image]:
    def drawn(*rows: SheetRow) -> Image.Image:
        contact_sheet(rows, tmp_path / "sheet.png", TITLES)
        with Image.open(tmp_path / "sheet.png") as image:
            return image.convert("RGB")

    return drawn


def runs(image: Image.Image, y: int) -> list[tuple[int, int, int]]:
    """The colours met along a line of the sheet, each run once, the paper and the grey frames left out."""
    line = [image.getpixel((x, y)) for x in range(image.width)]
    colours = [colour for i, colour in enumerate(line) if i == 0 or colour != line[i - 1]]
    return [colour for colour in colours if colour in {GREEN, *COLOURS}]


def middle(row: int) -> int:
    return module._HEADER + row * module._ROW + module._ROW // 2


def test_hits_stand_in_rank_order_and_the_own_picture_is_framed_green(
    pictures: list[Path], draw: Callable[..., Image.Image]
) -> None:
    image = draw(SheetRow("a", (pictures[2],), tuple(pictures[:5]), (pictures[2], *pictures[3:], pictures[0])))

    own = [GREEN, COLOURS[2], GREEN]
    before = [*COLOURS[:2], *own, *COLOURS[3:5]]
    after = [*own, *COLOURS[3:], COLOURS[0]]
    assert runs(image, middle(0)) == [*own, *before, *after]


def test_every_own_picture_is_framed_when_a_caption_has_several(
    pictures: list[Path], draw: Callable[..., Image.Image]
) -> None:
    image = draw(SheetRow("a", (pictures[0], pictures[1]), (pictures[1], pictures[2]), (pictures[0],)))

    first, second = [GREEN, COLOURS[0], GREEN], [GREEN, COLOURS[1], GREEN]
    assert runs(image, middle(0)) == [*first, *second, COLOURS[2], *first]


def test_a_miss_shows_no_green_among_the_hits(pictures: list[Path], draw: Callable[..., Image.Image]) -> None:
    image = draw(
        SheetRow("hit", (pictures[0],), (pictures[0],), (pictures[0],)),
        SheetRow("miss", (pictures[0],), (pictures[1],), (pictures[2],)),
    )
    assert runs(image, middle(1)) == [GREEN, COLOURS[0], GREEN, COLOURS[1], COLOURS[2]]


def test_picture_that_is_not_square_keeps_its_aspect(
    tmp_path: Path, pictures: list[Path], draw: Callable[..., Image.Image]
) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (200, 50), COLOURS[0]).save(wide)
    image = draw(SheetRow("a", (wide,), (pictures[1],), (pictures[2],)))

    red = [(x, y) for x in range(image.width) for y in range(image.height) if image.getpixel((x, y)) == COLOURS[0]]
    width = max(x for x, _ in red) - min(x for x, _ in red) + 1
    height = max(y for _, y in red) - min(y for _, y in red) + 1
    assert (width, height) == (module._THUMBNAIL, module._THUMBNAIL // 4)


def test_same_rows_give_the_same_bytes(tmp_path: Path, pictures: list[Path]) -> None:
    rows = [SheetRow("a query", (pictures[0],), tuple(pictures[:5]), tuple(pictures[1:]))]
    contact_sheet(rows, tmp_path / "one.png", TITLES)
    contact_sheet(rows, tmp_path / "two.png", TITLES)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_unreadable_picture_leaves_the_old_sheet_alone(tmp_path: Path, pictures: list[Path]) -> None:
    to = tmp_path / "sheet.png"
    to.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        contact_sheet([SheetRow("a", (tmp_path / "gone.png",), (), tuple(pictures))], to, TITLES)
    assert to.read_bytes() == b"old"


def test_a_sheet_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([], tmp_path / "sheet.png", TITLES)


@pytest.mark.parametrize("text", ["short", "keywords, " * 40, "a" * 300, "grinning face with big eyes and a hat"])
def test_wrapped_query_fits_the_column_and_says_when_it_was_cut(text: str) -> None:
    font = ImageFont.load_default(15)
    lines = module._wrap(text, font, 200)

    assert len(lines) <= 3
    assert all(font.getlength(line) <= 200 for line in lines)
    whole = " ".join(lines) == " ".join(text.split())
    assert whole != lines[-1].endswith("…")


def test_the_largest_gains_come_first_then_the_largest_losses() -> None:
    before, after = [9, 109, 1, 4, 2, 3], [1, 101, 8, 5, 2, 1]
    assert most_changed(before, after, gained=3, lost=2) == [0, 5, 1, 2, 3]
    assert most_changed(before, after, gained=1, lost=1) == [0, 2]


def test_queries_that_did_not_change_are_never_shown() -> None:
    assert most_changed([3, 1], [3, 1], gained=6, lost=2) == []
