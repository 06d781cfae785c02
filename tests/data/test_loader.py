from __future__ import annotations

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
from mwactl.data.loader import PairBatch, Row, pair_batches, picture_batches
from mwactl.data.workers import worker_count
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
) -> list[PairBatch]:
    digests = [sha256_file(path) for path in dataset.images]
    options = {"transform": transform, "flip": flip, "tokenize": tokenize, "seed": seed, "workers": workers}
    return list(pair_batches(dataset, digests, iter(batches), **options))


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
