from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from mwactl.search.found import Found, Result
from mwactl.search.item import Item
from mwactl.search.page import write_page

EVIL = "<script>alert('x')</script> & \" onerror=\"x"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(tmp_path: Path, *items: Item, query: str = "red") -> tuple[str, int]:
    results = [Result(rank, 0.5, item) for rank, item in enumerate(items, start=1)]
    to = tmp_path / "out.html"
    missing = write_page([Found(query, "text", results)], to, title="a search", about="by a model")
    return to.read_text("utf-8"), missing


def test_pictures_are_inside_of_the_page(tmp_path: Path, paint):
    page, missing = page_of(tmp_path, Item("a.png", str(paint(tmp_path / "a.png", "red", (300, 150)))))
    assert missing == 0
    [source] = [attributes["src"] for tag, attributes in Tags(page).tags if tag == "img"]
    assert source
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (224, 112)
        red, green, blue = picture.convert("RGB").getpixel((100, 50))  # type: ignore[misc]
        assert (red > 240, green < 15, blue < 15) == (True, True, True)
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_no_text_of_others_becomes_markup(tmp_path: Path, paint):
    path = str(paint(tmp_path / "a.png", "red"))
    page, _ = page_of(
        tmp_path, Item(EVIL, path, fields={EVIL: EVIL}), Item("c", "c.txt", text=EVIL), query=EVIL
    )  # fmt: skip
    tags = Tags(page)
    assert "script" not in [tag for tag, _ in tags.tags]
    assert not [attributes for _, attributes in tags.tags if any(name.startswith("on") for name in attributes)]
    assert tags.words.count(EVIL) == 5
    assert [attributes["alt"] for tag, attributes in tags.tags if tag == "img"] == [EVIL]
    assert "default-src 'none'" in page


def test_a_picture_that_is_gone_is_said_and_a_caption_is_none(tmp_path: Path):
    page, missing = page_of(tmp_path, Item("a.png", str(tmp_path / "a.png")), Item("c:1", "c.txt", text="a caption"))
    assert missing == 1
    words = Tags(page).words
    assert "the picture is not there any more" in words
    assert "a caption" in words
