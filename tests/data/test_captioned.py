from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mwactl.data import CaptionedImages, Row
from mwactl.errors import DataError

A, B, C = "a" * 64, "b" * 64, "c" * 64


def test_captions_of_lists_shared_captions_under_every_picture(many_to_many: CaptionedImages) -> None:
    assert many_to_many.captions_of() == [[0, 1], [1], [2]]


def test_without_keeps_captions_that_another_picture_has(many_to_many: CaptionedImages) -> None:
    rest = many_to_many.without({0})
    assert [path.name for path in rest.images] == ["b.png", "c.png"]
    assert rest.captions == ("an animal", "a car")
    assert rest.pairs.tolist() == [[0, 0], [1, 1]]
    assert rest.pairs.dtype == np.int64


def test_without_all_pictures_is_an_error(many_to_many: CaptionedImages) -> None:
    with pytest.raises(DataError, match="all 3 pictures"):
        many_to_many.without([0, 1, 2])


@pytest.mark.parametrize("bad", [[-1], [3]])
def test_without_refuses_indices_that_are_no_pictures(many_to_many: CaptionedImages, bad: list[int]) -> None:
    with pytest.raises(IndexError):
        many_to_many.without(bad)


def test_without_nothing_is_the_same_split(many_to_many: CaptionedImages) -> None:
    assert many_to_many.without([]) is many_to_many


def test_counts_tell_the_spread_of_captions(many_to_many: CaptionedImages) -> None:
    counts = many_to_many.counts()
    assert (counts.images, counts.captions, counts.captions_min, counts.captions_max) == (3, 3, 1, 2)
    assert counts.captions_mean == pytest.approx(4 / 3)


def test_pairs_cannot_be_changed_from_outside(tmp_path: Path) -> None:
    pairs = np.array([[0, 0]])
    dataset = CaptionedImages("n", "s", (tmp_path / "a",), ("x",), pairs)
    pairs[0, 0] = 5
    assert dataset.pairs.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="read-only"):
        dataset.pairs[0, 0] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": np.array([[0, 0], [0, 1], [1, 1]])}, "every picture"),
        ({"pairs": np.array([[0, 0], [1, 0], [2, 0]])}, "every caption"),
        ({"pairs": np.array([[0, 0], [1, 2], [2, 1]])}, "not sorted"),
        ({"pairs": np.array([[0, 0], [1, 1], [2, 2], [3, 2]])}, "every picture"),
        ({"pairs": np.array([0, 1, 2])}, "shape"),
        ({"captions": ("a", " \t", "c")}, "caption is empty"),
        ({"images": (Path("/a"), Path("/b"), Path("/a"))}, "twice"),
        ({"images": (Path("/a"), Path("/b"), Path("c"))}, "not absolute"),
    ],
)
def test_contradicting_fields_are_refused(
    many_to_many: CaptionedImages, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(many_to_many, **change)  # type: ignore[arg-type]


def test_rows_of_one_picture_need_not_be_neighbours(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    dataset = CaptionedImages.from_rows("n", "s", [Row(b, "one"), Row(a, "two"), Row(b, "three")])
    assert dataset.images == (b, a)
    assert dataset.captions == ("one", "two", "three")
    assert dataset.pairs.tolist() == [[0, 0], [1, 1], [0, 2]]


def test_the_same_text_of_two_pictures_stays_two_captions(tmp_path: Path) -> None:
    rows = [Row(tmp_path / "a", "a dog"), Row(tmp_path / "b", "a dog")]
    assert CaptionedImages.from_rows("n", "s", rows).captions == ("a dog", "a dog")


def test_digest_is_the_same_wherever_the_pictures_lie(many_to_many: CaptionedImages) -> None:
    moved = replace(many_to_many, name="other", images=tuple(Path("/elsewhere") / p.name for p in many_to_many.images))
    assert many_to_many.digest([A, B, C]) == moved.digest([A, B, C])


def test_digest_changes_with_anything_that_changes_a_result(many_to_many: CaptionedImages) -> None:
    base = many_to_many.digest([A, B, C])
    a, b, c = many_to_many.images
    others = [
        many_to_many.digest([A, B, A]),
        replace(many_to_many, captions=("a red cat", "an animal", "a bus")).digest([A, B, C]),
        replace(many_to_many, pairs=np.array([[0, 0], [1, 1], [2, 2]])).digest([A, B, C]),
        replace(many_to_many, images=(a, c, b)).digest([A, B, C]),
        replace(many_to_many, images=(a, b, c.with_name("d.png"))).digest([A, B, C]),
    ]
    assert len({base, *others}) == len(others) + 1


def test_digest_is_pinned_across_versions(many_to_many: CaptionedImages) -> None:
    assert many_to_many.digest([A, B, C]) == "9307afe6c32a258f44e30cd90b16248c7cd01ed76f0abe4d1cabb76fcbf6ea71"


@pytest.mark.parametrize("digests", [[A, B], [A, B, None], [A, B, ""]])
def test_digest_needs_every_picture(many_to_many: CaptionedImages, digests: list[str]) -> None:
    with pytest.raises(ValueError, match="as many digests"):
        many_to_many.digest(digests)


def test_tags_are_one_a_picture_and_stay_with_it(many_to_many: CaptionedImages) -> None:
    tagged = replace(many_to_many, tags=("indoor", "", "street"))
    assert tagged.without({1}).tags == ("indoor", "street")
    assert tagged.without({0, 2}).tags == ()
    assert many_to_many.tags == ()
    assert tagged.digest([A, B, C]) == many_to_many.digest([A, B, C])


@pytest.mark.parametrize("tags", [("indoor",), ("", "", "")])
def test_tags_that_do_not_fit_are_refused(many_to_many: CaptionedImages, tags: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="one a picture"):
        replace(many_to_many, tags=tags)
