"""The square transform: the whole picture without its aspect, between -1 and 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mwactl.backbone.contract import Augmentation
from mwactl.backbone.square import square_transform


def noise(width: int, height: int) -> Image.Image:
    values = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(values.numpy())


def seeded(transform: object, picture: Image.Image, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result: Tensor = transform(picture)  # type: ignore[operator]
    return result


@pytest.mark.parametrize(("width", "height"), [(90, 50), (50, 90), (32, 32), (7, 300)])
def test_the_whole_picture_is_squashed_bicubic_to_the_square(width: int, height: int) -> None:
    picture = noise(width, height)
    squashed = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32)
    expected = torch.from_numpy(squashed / 255).permute(2, 0, 1) * 2 - 1
    transformed = square_transform(32, None)(picture)
    assert transformed.shape == (3, 32, 32)
    torch.testing.assert_close(transformed, expected, rtol=0, atol=1e-6)


def test_black_is_minus_one_and_white_is_one() -> None:
    transform = square_transform(16, None)
    assert (transform(Image.new("RGB", (9, 20), "black")) == -1).all()
    assert (transform(Image.new("RGB", (9, 20), "white")) == 1).all()


def test_training_mirrors_every_second_picture_and_changes_nothing_else_of_a_whole_square() -> None:
    picture = noise(32, 32)
    plain = square_transform(32, None)(picture)
    transform = square_transform(32, Augmentation(crop_min_scale=1.0))
    seen = [seeded(transform, picture, seed) for seed in range(60)]
    mirrored = sum(torch.equal(one, plain.flip(-1)) for one in seen)
    assert sum(torch.equal(one, plain) for one in seen) == 60 - mirrored
    assert 20 <= mirrored <= 40


def test_training_resamples_bicubic_too() -> None:
    # A whole picture this wide has no allowed aspect: the middle of it has the widest one, 4:3, and is always cut out.
    picture = noise(90, 50)
    middle = square_transform(32, None)(picture.crop((11, 0, 78, 50)))
    transform = square_transform(32, Augmentation(crop_min_scale=1.0))
    for seed in range(4):
        transformed = seeded(transform, picture, seed)
        assert torch.equal(transformed, middle) or torch.equal(transformed, middle.flip(-1))


def test_crops_keep_at_least_the_share_that_is_asked_for_and_an_aspect_from_three_to_four_quarters() -> None:
    # Red counts the columns and green the rows, so a crop's corners tell where it was cut.
    down, across = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    picture = Image.fromarray(torch.stack([across, down, down * 0], dim=-1).to(torch.uint8).numpy())
    transform = square_transform(50, Augmentation(crop_min_scale=0.25))
    areas, aspects = [], []
    for seed in range(200):
        spans = (seeded(transform, picture, seed)[:2] + 1) * 127.5
        width = float(spans[0, 25].max() - spans[0, 25].min()) * 50 / 49
        height = float(spans[1, :, 25].max() - spans[1, :, 25].min()) * 50 / 49
        areas.append(width * height / 200**2)
        aspects.append(width / height)
    assert 0.23 <= min(areas) < 0.35
    assert 0.85 < max(areas) <= 1.03
    assert 0.72 <= min(aspects) < 0.8
    assert 1.25 < max(aspects) <= 1.38


def test_colour_turns_some_pictures_grey_and_shifts_the_others() -> None:
    red = Image.new("RGB", (32, 32), (200, 40, 40))
    transform = square_transform(32, Augmentation(crop_min_scale=1.0, colour=True))
    colours = [seeded(transform, red, seed)[:, 0, 0] for seed in range(100)]
    grey = [colour for colour in colours if colour.max() - colour.min() < 0.02]
    assert 8 <= len(grey) <= 35
    assert len({tuple(colour.tolist()) for colour in colours}) > 50
    without = square_transform(32, Augmentation(crop_min_scale=1.0))
    assert torch.equal(seeded(without, red, 0), square_transform(32, None)(red))
