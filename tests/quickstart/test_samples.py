from __future__ import annotations

import io

import pytest
from PIL import Image

from mwactl.quickstart.samples import samples


def test_they_are_the_same_pictures_every_time_and_no_two_of_them_are_equal() -> None:
    drawings = samples(32)
    assert drawings == samples(32)
    assert len({drawing.picture for drawing in drawings}) == len({drawing.caption for drawing in drawings}) == 32


def test_each_can_be_decoded_and_captions_are_short_and_long() -> None:
    drawings = samples(32)
    assert {Image.open(io.BytesIO(drawing.picture)).size for drawing in drawings} == {(64, 64)}
    lengths = [len(drawing.caption.split()) for drawing in drawings]
    assert min(lengths) <= 2 and max(lengths) >= 8


@pytest.mark.parametrize("count", [0, 100_000])
def test_more_than_there_are_cannot_be_had(count: int) -> None:
    with pytest.raises(ValueError, match="drawings can be had"):
        samples(count)
