from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mwactl.data import perceptual
from mwactl.data.perceptual import DISTANCE, near_pairs, perceptual_hash


def photograph(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Smooth noise on several scales, as light and shadow are."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        )
        for side in (3, 6, 12, 24)
    ]
    return Image.fromarray(np.average(layers, axis=0, weights=(4, 3, 2, 1)).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


def hashed(picture: Image.Image) -> np.ndarray:
    bits = perceptual_hash(picture)
    assert bits is not None
    assert bits.shape == (64,)
    assert not bits[0]  # how light a picture is says nothing
    return bits


def changed(picture: Image.Image) -> dict[str, Image.Image]:
    width, height = picture.size
    return {
        "compressed": jpeg(picture, 30),
        "smaller": jpeg(picture.resize((width // 2, height // 2), Image.Resampling.BICUBIC), 60),
        "squashed": picture.resize((96, 96)),
        "lighter": ImageEnhance.Brightness(picture).enhance(1.15),
        "grey": picture.convert("L").convert("RGB"),
        "cut": picture.crop((1, 1, width - 1, height - 1)),
    }


def test_what_looks_the_same_is_near_and_the_rest_is_far() -> None:
    for seed in range(8):
        own, other = hashed(photograph(seed)), hashed(photograph(100 + seed))
        for name, picture in changed(photograph(seed)).items():
            assert (own != hashed(picture)).sum() <= DISTANCE, (seed, name)
        assert (own != other).sum() > 2 * DISTANCE


def test_a_picture_of_one_colour_has_nothing_to_compare() -> None:
    assert perceptual_hash(Image.new("RGB", (50, 40), "orange")) is None


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_all_pairs_are_those_of_counting(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(perceptual, "_BLOCK", block)
    rng = np.random.default_rng(0)
    hashes = rng.random((11, 64)) < 0.5
    hashes[7] = hashes[2]
    hashes[9] = hashes[2]
    hashes[9, :5] ^= True
    expected = [
        (i, j, int((hashes[i] != hashes[j]).sum()))
        for i in range(11)
        for j in range(i + 1, 11)
        if (hashes[i] != hashes[j]).sum() <= 5
    ]
    assert sorted(near_pairs(hashes, 5)) == expected == [(2, 7, 0), (2, 9, 5), (7, 9, 5)]
