from __future__ import annotations

import contextlib
import gc
import multiprocessing
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mwactl.data import CaptionedImages
from mwactl.data.cache import PictureCache
from mwactl.data.geometry import Geometry, Steps
from mwactl.data.loader import PairBatch, Pictures, Row, pair_batches, picture_batches
from mwactl.data.workers import worker_count
from mwactl.errors import DataError
from mwactl.files import sha256_file

# Where there is one core, torch warns of two loader processes.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

BATCHES: list[list[Row]] = [[(0, 2, 3), (0, 0, 1)], [(0, 1, 2), (0, 3, 4)], [(1, 0, 0), (1, 2, 3)], [(1, 3, 4)]]


@pytest.fixture
def dataset(tmp_path: Path) -> CaptionedImages:
    """Four noisy pictures; 0 and 3 have the same bytes. Captions 0, 2 and 4 are the same words."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(4):
        source = np.random.default_rng(7) if number in (0, 3) else rng
        pixels = source.integers(0, 256, (6, 8, 3))
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    captions = ("A dog.", "a cat", "  a DOG. ", "two  dogs", "a\tdog.")
    pairs = np.array([[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]])
    return CaptionedImages("tiny", "train", tuple(paths), captions, pairs)


def noisy(picture: Image.Image) -> Tensor:
    """A transform that draws from both global generators: [3, 6, 8]."""
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float()
    return pixels + torch.rand(3, 6, 8) + random.random()


def plain(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float()


def tokenize(captions: Sequence[str]) -> Tensor:
    return torch.tensor([[len(caption), ord(caption.strip()[0])] for caption in captions])


def load(
    dataset: CaptionedImages,
    batches: list[list[Row]] = BATCHES,
    *,
    workers: int = 0,
    seed: int = 5,
    flip: bool = True,
    transform=noisy,
    pictures: Pictures | None = None,
) -> list[PairBatch]:
    digests = [sha256_file(path) for path in dataset.images]
    options = {"transform": transform, "flip": flip, "tokenize": tokenize, "seed": seed, "workers": workers}
    return list(pair_batches(dataset, digests, iter(batches), pictures=pictures, **options))


def same(one: list[PairBatch], other: list[PairBatch]) -> bool:
    return len(one) == len(other) and all(torch.equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))


def test_batches_hold_the_rows_they_were_given(dataset: CaptionedImages):
    batches = load(dataset, flip=False, transform=plain)
    assert [len(batch.pixels) for batch in batches] == [2, 2, 2, 1]
    assert torch.equal(batches[0].pixels[0], plain(Image.open(dataset.images[2])))
    assert batches[0].tokens.tolist() == tokenize(["two  dogs", "a cat"]).tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_tensors(dataset: CaptionedImages, workers: int):
    torch.manual_seed(workers)
    assert same(load(dataset), load(dataset, workers=workers))


def test_a_row_does_not_depend_on_what_came_before(dataset: CaptionedImages):
    whole = load(dataset)
    for first in range(len(BATCHES)):
        random.seed(first)
        torch.manual_seed(first)
        assert same(load(dataset, BATCHES[first:]), whole[first:])


@pytest.mark.parametrize("row", [(1, 0, 0), (0, 0, 1)], ids=["another epoch", "another caption"])
def test_epoch_and_caption_change_what_a_row_looks_like(dataset: CaptionedImages, row: Row):
    one, other = load(dataset, [[(0, 0, 0)], [row]])
    assert not torch.equal(one.pixels, other.pixels)


def test_the_seed_changes_what_a_row_looks_like(dataset: CaptionedImages):
    assert not same(load(dataset), load(dataset, seed=6))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_left_as_they_were(dataset: CaptionedImages, workers: int):
    torch.manual_seed(1)
    random.seed(1)
    before = (torch.get_rng_state(), random.getstate())
    load(dataset, workers=workers)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_a_transform_that_fails_leaves_the_generators_as_they_were(dataset: CaptionedImages):
    def broken(picture: Image.Image) -> Tensor:
        random.random()
        raise RuntimeError("broken")

    before = (torch.get_rng_state(), random.getstate())
    with pytest.raises(RuntimeError, match="broken"):
        load(dataset, transform=broken)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_pictures_with_the_same_bytes_are_one_picture(dataset: CaptionedImages):
    [batch] = load(dataset, [[(0, 0, 0), (0, 1, 2), (0, 2, 3), (0, 3, 4)]])
    ids = batch.picture_ids.tolist()
    assert ids[0] == ids[3]
    assert len(set(ids)) == 3


def test_pictures_without_a_digest_are_told_apart_by_their_files(dataset: CaptionedImages):
    rows = [[(0, 0, 0), (0, 1, 2), (0, 3, 4)]]
    [batch] = pair_batches(
        dataset, [None] * 4, iter(rows), transform=plain, flip=False, tokenize=tokenize, seed=0, workers=0
    )
    assert len(set(batch.picture_ids.tolist())) == 3


def test_captions_of_the_same_words_are_one_caption_whatever_their_case_and_blanks(dataset: CaptionedImages):
    [batch] = load(dataset, [[(0, 0, 0), (0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4)]])
    ids = batch.caption_ids.tolist()
    assert ids[0] == ids[2] == ids[4]
    assert len(set(ids)) == 3


def test_flip_mirrors_about_half_of_the_pictures(dataset: CaptionedImages):
    rows = [[(epoch, 1, 2)] for epoch in range(200)]
    original = plain(Image.open(dataset.images[1]))
    shown = [batch.pixels[0] for batch in load(dataset, rows, transform=plain)]
    mirrored = sum(torch.equal(pixels, original.flip(-1)) for pixels in shown)
    assert mirrored + sum(torch.equal(pixels, original) for pixels in shown) == 200
    assert 70 <= mirrored <= 130
    assert all(torch.equal(batch.pixels[0], original) for batch in load(dataset, rows, flip=False, transform=plain))


def squeeze(picture: Image.Image) -> Image.Image:
    """A resize that is not symmetric: 8 × 6 -> 5 × 5."""
    return picture.resize((5, 5), Image.Resampling.BICUBIC, box=(0.3, 0, 7, 6))


@pytest.fixture
def cached(dataset: CaptionedImages) -> Pictures:
    """The dataset's pictures, squeezed, from the cache."""
    cache = PictureCache(Geometry(squeeze, "squeezed"))
    digests = [sha256_file(path) for path in dataset.images]
    cache.build("tiny", dataset.images, digests)
    return cache.open(dataset.images, digests)


def noisy_square(picture: Image.Image) -> Tensor:
    """[3, 5, 5], drawn from both generators."""
    return plain(picture) + torch.rand(3, 5, 5) + random.random()


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("rest", [plain, noisy_square], ids=["plain", "chance"])
def test_a_row_from_the_cache_is_the_row_from_the_file_to_the_bit(dataset, cached: Pictures, workers: int, rest):
    """Whether mirrored or not, with any chance after the geometry, in every worker."""
    rows = [[(epoch, image, 0) for image in range(4)] for epoch in range(4)]
    whole = load(dataset, rows, transform=Steps((squeeze, rest)))
    assert same(load(dataset, rows, transform=rest, pictures=cached, workers=workers), whole)


def test_picture_batches_from_the_cache_are_those_from_the_files(dataset: CaptionedImages, cached: Pictures):
    whole = list(picture_batches(dataset, transform=Steps((squeeze, plain)), batch_size=3, workers=0))
    batches = list(picture_batches(dataset, transform=plain, pictures=cached, batch_size=3, workers=1))
    assert [len(batch) for batch in batches] == [3, 1]
    assert torch.equal(torch.cat(batches), torch.cat(whole))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batches", ["pairs", "pictures"])
def test_an_error_arrives_from_a_worker_with_all_its_parts(dataset: CaptionedImages, workers: int, batches: str):
    """Not as a traceback in one long line: what, where and the command that helps."""
    dataset.images[1].write_bytes(b"not a picture any more")
    with pytest.raises(DataError) as caught:
        if batches == "pairs":
            load(dataset, workers=workers)
        else:
            list(picture_batches(dataset, transform=plain, batch_size=2, workers=workers))
    assert caught.value.what == "cannot read the picture"
    assert caught.value.where == str(dataset.images[1])
    assert caught.value.fix


def test_an_error_leaves_no_worker_behind(dataset: CaptionedImages):
    """They ignore the signal by which Python ends them at exit: it would wait for them for ever."""
    dataset.images[1].write_bytes(b"not a picture any more")
    gc.disable()
    try:
        with contextlib.suppress(DataError):
            load(dataset, workers=2)
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


def test_a_batch_pins_each_of_its_tensors(dataset: CaptionedImages, monkeypatch: pytest.MonkeyPatch):
    """What the loader asks for by name: a batch without the method would cross to the GPU from pageable memory."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    [batch] = load(dataset, [[(0, 2, 3), (0, 0, 1)]], flip=False, transform=plain)
    pinned = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert isinstance(pinned, PairBatch)
    for name in ("pixels", "tokens", "picture_ids", "caption_ids"):
        assert torch.equal(getattr(pinned, name), getattr(batch, name) + 1)


SEVERAL: list[list[Row]] = [[(0, 0, 0, 1), (0, 2, 3), (0, 3, 4)], [(0, 1, 2), (0, 0, 0, 1)]]


def test_a_picture_with_several_captions_is_one_row_of_pixels_with_as_many_of_tokens(dataset: CaptionedImages):
    first, second = load(dataset, SEVERAL, flip=False, transform=plain)
    assert [len(first.pixels), len(first.tokens), len(first.picture_ids), len(first.caption_ids)] == [3, 4, 3, 4]
    assert torch.equal(first.pixels[0], plain(Image.open(dataset.images[0])))
    assert first.tokens.tolist() == tokenize(["A dog.", "a cat", "two  dogs", "a\tdog."]).tolist()
    assert first.owners is not None
    assert second.owners is not None
    assert (first.owners.tolist(), second.owners.tolist()) == ([0, 0, 1, 2], [0, 1, 1])
    assert first.picture_ids[0] == first.picture_ids[2]  # the same bytes
    assert first.caption_ids[0] == first.caption_ids[3]  # the same words


def test_one_caption_a_picture_needs_no_owners(dataset: CaptionedImages):
    assert all(batch.owners is None for batch in load(dataset))


def test_a_picture_with_several_captions_is_decoded_once(dataset: CaptionedImages):
    decoded: list[int] = []

    def counted(picture: Image.Image) -> Tensor:
        decoded.append(1)
        return plain(picture)

    load(dataset, SEVERAL, transform=counted)
    assert len(decoded) == 5


def test_with_several_captions_too_a_row_depends_on_nothing_but_itself(dataset: CaptionedImages):
    whole = load(dataset, SEVERAL)
    assert same(load(dataset, SEVERAL, workers=2), whole)
    assert same(load(dataset, SEVERAL[1:]), whole[1:])
    [[one], [other]] = ([batch.pixels for batch in load(dataset, [[row]])] for row in ((0, 0, 0, 1), (0, 0, 0)))
    assert not torch.equal(one, other)  # another share of its captions: another crop


def test_pinning_keeps_the_owners(dataset: CaptionedImages, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self + 0)
    [pinned] = [batch.pin_memory() for batch in load(dataset, SEVERAL[:1], flip=False, transform=plain)]
    [batch] = load(dataset, SEVERAL[:1], flip=False, transform=plain)
    assert pinned.owners is not None
    assert batch.owners is not None
    assert torch.equal(pinned.owners, batch.owners)
    assert load(dataset)[0].pin_memory().owners is None


@pytest.mark.parametrize("workers", [0, 2])
def test_picture_batches_show_every_picture_once_in_order(dataset: CaptionedImages, workers: int):
    state = torch.get_rng_state()
    batches = list(picture_batches(dataset, transform=plain, batch_size=3, workers=workers))
    assert [len(batch) for batch in batches] == [3, 1]
    expected = torch.stack([plain(Image.open(path)) for path in dataset.images])
    assert torch.equal(torch.cat(batches), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_leave_interrupts_to_the_process_that_made_them(dataset: CaptionedImages):
    """Ctrl-C reaches the whole process group: a worker that stopped would take the running step with it."""

    def asks(picture: Image.Image) -> Tensor:
        ignored = [signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM)]
        return torch.tensor([*ignored, torch.get_num_threads() == 1])

    [batch] = picture_batches(dataset, transform=asks, batch_size=4, workers=1)
    assert batch.all()


def test_the_default_is_a_worker_for_each_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert worker_count(None) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert worker_count(None) == 8
    assert worker_count(0) == 0
    assert worker_count(11) == 11
