from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import transforms

from mwactl.data.geometry import Shrink, Steps, for_random_crops, split_transform
from mwactl.errors import IncompatibleError


@pytest.fixture
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for h, w in ((50, 90), (91, 40), (20, 21))]


def compose(*head, size: int = 32) -> transforms.Compose:
    resize = head or [transforms.Resize(size), transforms.CenterCrop(size)]
    return transforms.Compose([*resize, transforms.ToTensor(), transforms.Normalize((0.4,) * 3, (0.3,) * 3)])


def pad(picture: Image.Image, fill: int) -> Image.Image:
    return ImageOps.expand(picture, 4, (fill,) * 3)


class Pad:
    """A step whose name leaves its option out, as some libraries' do."""

    def __init__(self, fill: int) -> None:
        self.fill = fill

    def __call__(self, picture: Image.Image) -> Image.Image:
        return pad(picture, self.fill)

    def __repr__(self) -> str:
        return "Pad()"


def test_the_two_halves_of_a_transform_give_the_whole_to_the_bit(pictures):
    transform = compose()
    geometry, rest = split_transform(transform)
    for picture in pictures:
        kept = geometry(picture)
        assert isinstance(kept, Image.Image)
        assert (kept.mode, kept.size) == ("RGB", (32, 32))
        assert torch.equal(rest(kept), transform(picture))


def test_equal_geometries_have_equal_digests_whatever_comes_after_them():
    one, other = (
        compose(),
        transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()]),
    )
    assert split_transform(one)[0].digest == split_transform(other)[0].digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (compose(), compose(size=31)),
        (compose(transforms.Resize(32)), compose(transforms.Resize((32, 32)))),
        (compose(transforms.Resize(32)), compose(transforms.Resize(32, transforms.InterpolationMode.BICUBIC))),
        (compose(Pad(0)), compose(Pad(1))),
    ],
    ids=["size", "aspect", "interpolation", "an option that its name does not tell"],
)
def test_other_geometries_have_other_digests(one, other):
    assert split_transform(one)[0].digest != split_transform(other)[0].digest


def test_another_decoder_has_another_digest(monkeypatch: pytest.MonkeyPatch):
    before = split_transform(compose())[0].digest
    monkeypatch.setattr("PIL.__version__", "0.1")
    assert split_transform(compose())[0].digest != before


class Mirror:
    """A step that is known by its address alone."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        return ImageOps.mirror(picture)


def test_where_a_step_lies_in_memory_does_not_matter():
    """Another process would find nothing that this one has kept."""
    steps = [Mirror(), Mirror()]
    assert repr(steps[0]) != repr(steps[1])
    one, other = (split_transform(compose(step))[0] for step in steps)
    assert one.digest == other.digest


def opaque(picture: Image.Image) -> Tensor:
    return torch.zeros(3, 4, 4)


@pytest.mark.parametrize(
    ("transform", "why"),
    [
        (opaque, "cannot be told apart"),
        (transforms.Compose([transforms.ToTensor(), transforms.Resize(32)]), "first step gives no picture"),
        (transforms.Compose([transforms.Resize(32)]), "none of its steps gives a tensor"),
        (compose(transforms.RandomCrop(8)), "draws random numbers"),
        (compose(lambda picture: picture.rotate(random.choice([0, 0]))), "draws random numbers"),
        (compose(transforms.Grayscale()), "not RGB"),
    ],
    ids=["opaque", "tensor first", "no tensor", "torch's chance", "Python's chance", "grey"],
)
def test_a_transform_that_cannot_be_cut_is_refused_with_the_reason(transform, why: str):
    states = torch.get_rng_state(), random.getstate()
    with pytest.raises(IncompatibleError, match="cannot be cached") as caught:
        split_transform(transform)
    assert why in str(caught.value)
    assert "data.cache=off" in str(caught.value)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


@pytest.mark.parametrize("share", [1.0, 0.7, 0.2])
@pytest.mark.parametrize("size", [(2000, 2000), (2000, 3000), (2800, 1700)])
def test_no_random_crop_of_a_shrunk_picture_is_enlarged(share: float, size: tuple[int, int]):
    """The smallest crop of the shrunk picture still has as many pixels a side as the model takes."""
    shrunk = for_random_crops((64, 64), share)(Image.new("RGB", size))
    crop = transforms.RandomResizedCrop(64, (share, share), (3 / 4, 4 / 3))
    torch.manual_seed(0)
    sides = []
    for _ in range(300):
        _, _, height, width = crop.get_params(shrunk, [share, share], [3 / 4, 4 / 3])
        sides.append(min(height, width))
    assert min(sides) >= 64
    if size[0] == size[1]:
        assert min(sides) < 76  # and it is not kept larger than that takes


def test_shrinking_keeps_the_aspect_and_never_enlarges(pictures):
    shrink = Shrink(30)
    assert [shrink(picture).size for picture in pictures] == [(54, 30), (30, 68), (21, 20)]
    assert shrink(pictures[2]) is pictures[2]
    assert Shrink(7)(Image.new("RGB", (5000, 8))).size[1] == 7


def test_what_is_kept_for_random_crops_depends_on_size_and_share():
    digests = {
        for_random_crops(size, share).digest for size, share in (((64, 64), 0.5), ((64, 64), 0.7), ((32, 32), 0.5))
    }
    assert len(digests) == 3
    assert for_random_crops((224, 224), 0.7).description.startswith("shortest side at most 310")


def test_steps_tell_what_they_do_without_addresses():
    assert "0x" not in repr(Steps((opaque, object.__new__(Pad))))
