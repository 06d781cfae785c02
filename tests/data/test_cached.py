from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mwactl.data.cache import PictureCache
from mwactl.data.cached import CachedPictures
from mwactl.data.geometry import Geometry
from mwactl.errors import ExitCode, VerificationError
from mwactl.files import sha256_file


def halve(picture: Image.Image) -> Image.Image:
    return picture.reduce(2)


HALF = Geometry(halve, "half as large")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (8, 10 + 2 * number, 3), np.uint8)).save(path)
    return paths


@pytest.fixture
def cached(images: list[Path]) -> CachedPictures:
    cache = PictureCache(HALF)
    digests = [sha256_file(path) for path in images]
    cache.build("tiny", images, digests)
    return cache.open(images, digests)


@pytest.fixture
def data(cached: CachedPictures) -> Path:
    [path] = PictureCache(HALF).folder.glob("*.rgb")
    return path


def test_pictures_are_read_and_not_decoded(cached: CachedPictures, images, monkeypatch: pytest.MonkeyPatch):
    expected = [halve(Image.open(path)).tobytes() for path in images]
    monkeypatch.setattr("mwactl.data.cached.open_image", lambda path: pytest.fail(f"{path} was decoded"))
    assert [cached(index).tobytes() for index in range(3)] == expected
    assert [cached(index).size for index in range(3)] == [(5, 4), (6, 4), (7, 4)]


def test_a_picture_may_be_changed_without_changing_the_cache(cached: CachedPictures):
    before = cached(0).tobytes()
    cached(0).paste((1, 2, 3), (0, 0, 5, 4))
    assert cached(0).tobytes() == before


def test_a_process_that_was_not_forked_reads_the_same(cached: CachedPictures):
    before = cached(1).tobytes()
    again = pickle.loads(pickle.dumps(cached))
    assert again(1).tobytes() == before
    assert len(pickle.dumps(cached)) < 5_000, "the pictures travelled along"


def test_a_changed_byte_is_an_error_that_names_picture_file_and_command(cached: CachedPictures, images, data: Path):
    content = bytearray(data.read_bytes())
    content[4 * 5 * 3 + 7] ^= 1  # in the second picture
    data.write_bytes(content)
    cached(0)
    cached(2)
    with pytest.raises(VerificationError, match="another checksum") as caught:
        cached(1)
    assert caught.value.exit_code == ExitCode.VERIFICATION
    for named in (images[1], data, "mwactl data cache tiny --remove"):
        assert str(named) in str(caught.value)


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut"])
def test_a_part_that_vanished_after_it_was_opened_is_such_an_error_too(cached: CachedPictures, data: Path, damage: str):
    if damage == "deleted":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:-1] if damage == "cut" else b"")
    with pytest.raises(VerificationError, match="is damaged"):
        cached(2)
