from __future__ import annotations

from pathlib import Path

import pytest

from mwactl.errors import DataError, NotFoundError
from mwactl.files import sha256_file
from mwactl.workflow.splits import checked_split


def test_a_split_has_the_digest_of_every_picture(tiny_data: str, listener):
    split = checked_split(tiny_data, "val", on_error="stop", reporter=listener)
    assert list(split.digests) == [sha256_file(path) for path in split.dataset.images]
    assert len(split.digests) == 8
    assert split.skipped == 0
    assert listener.said == []


def test_a_damaged_picture_stops_and_is_named(add_data, copied_pictures: Path, listener):
    (copied_pictures / "images" / "val-03.png").write_bytes(b"no picture")
    add_data("tiny", copied_pictures)
    with pytest.raises(DataError, match="1 of 8 pictures") as caught:
        checked_split("tiny", "val", on_error="stop", reporter=listener)
    assert "val-03.png" in str(caught.value.why)
    assert "data.on_error=skip" in str(caught.value.fix)


def test_damaged_and_missing_pictures_are_skipped_with_their_captions_and_named(
    add_data, copied_pictures: Path, listener
):
    (copied_pictures / "images" / "val-03.png").write_bytes(b"no picture")
    (copied_pictures / "images" / "val-05.png").unlink()
    add_data("tiny", copied_pictures)
    split = checked_split("tiny", "val", on_error="skip", reporter=listener)
    assert split.skipped == 2
    assert [path.name for path in split.dataset.images] == [f"val-{n:02}.png" for n in (0, 1, 2, 4, 6, 7)]
    assert list(split.digests) == [sha256_file(path) for path in split.dataset.images]
    assert len(split.dataset.captions) == 12
    assert not any("picture 3" in caption or "picture 5" in caption for caption in split.dataset.captions)
    assert "val-03.png" in listener.said[0]
    assert "val-05.png" in listener.said[1]
    assert "2 of 8 pictures of tiny val are skipped" in listener.said[2]


def test_an_unknown_split_says_which_there_are(tiny_data: str, listener):
    with pytest.raises(NotFoundError) as caught:
        checked_split(tiny_data, "dev", on_error="stop", reporter=listener)
    assert "train, val, test" in str(caught.value.why)
