from __future__ import annotations

import pytest
import torch

from mwactl.backbone import find_spec
from mwactl.bench.batch import batch_of_data, caption_lengths, load_batch
from mwactl.bench.family import family_of
from mwactl.bench.prepare import prepare_batch
from mwactl.data import Catalogue
from mwactl.errors import UsageError


def test_caption_lengths_are_spread_as_cocos():
    lengths = caption_lengths(640, torch.Generator().manual_seed(0)).double()
    assert lengths.mean().item() == pytest.approx(13.8, abs=0.05)
    assert lengths.std().item() == pytest.approx(3.0, abs=0.05)
    assert lengths.quantile(0.99) == 24


@pytest.mark.parametrize("count", [2, 8, 100])
def test_few_captions_have_about_the_mean_length_too(count):
    lengths = caption_lengths(count, torch.Generator().manual_seed(0)).double()
    assert lengths.mean().item() == pytest.approx(13.8, abs=0.6)


def test_the_batch_is_the_same_each_time_and_another_for_another_seed(batch_of, setup_of):
    first, again = batch_of(setup_of("beit3")), batch_of(setup_of("beit3"))
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.tokens, batch_of(setup_of("beit3", seed=1)).tokens)


@pytest.mark.parametrize("family", ["beit3", "clip", "vlmo"])
def test_captions_are_real_ids_and_then_padding(batch_of, setup_of, family):
    batch = batch_of(setup_of(family))
    assert batch.tokens.shape[:2] == (6, 3)
    for row, length in zip(batch.tokens.flatten(0, 1), batch.lengths.flatten().tolist(), strict=True):
        assert (row[length:] == batch.padding).all()
        assert not (row[:length] == batch.padding).any()
        assert row.argmax() == length - 1


def test_several_captions_make_about_as_many_pairs_of_fewer_pictures(batch_of, setup_of):
    batch = batch_of(setup_of("beit3", batch_size=8)).several()
    assert batch.tokens.shape[:2] == (3, 3)
    small = batch_of(setup_of("beit3", batch_size=2)).several()
    assert len(small.pixels) == 2


def test_a_spread_has_the_batchs_lengths(batch_of, setup_of):
    batch = batch_of(setup_of("beit3", batch_size=40))
    mean = batch.lengths[:, 0].double().mean().item()
    assert batch.spread(4).lengths[:, 0].double().mean().item() == pytest.approx(mean, abs=0.8)
    assert torch.equal(batch.spread(4).twice().lengths[:4], batch.spread(4).lengths)


def test_a_batch_survives_its_file(batch_of, setup_of, tmp_path):
    batch = batch_of(setup_of("clip"))
    batch.save(tmp_path / "batch")
    loaded = load_batch(tmp_path / "batch")
    assert torch.equal(loaded.pixels, batch.pixels) and torch.equal(loaded.tokens, batch.tokens)
    assert loaded.padding == batch.padding


def test_a_data_set_gives_its_first_pictures_with_their_own_captions(tiny_data, setup_of, tiny_clip):
    setup = setup_of("clip", batch_size=5, captions_per_image=4)
    batch = prepare_batch(setup, (), tiny_data, "train")
    assert batch.pixels.shape == (5, 3, 32, 32)
    plugin, spec = find_spec(setup.backbone)
    backbone = plugin.build_without_weights(spec)
    data = Catalogue.default().get(tiny_data).load("train")
    words = [data.captions[caption] for caption in data.captions_of()[3]]
    assert torch.equal(batch.tokens[3], backbone.tokenize(words))  # two, as every picture has
    with pytest.raises(UsageError, match="24 pictures"):
        batch_of_data(backbone, family_of(backbone), data, size=25, captions=1)
