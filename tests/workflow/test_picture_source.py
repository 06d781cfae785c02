from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mwactl.backbone import find_spec
from mwactl.backbone.contract import Augmentation, Backbone
from mwactl.config import load_recipe
from mwactl.config.recipe import DataConfig
from mwactl.data.cache import PictureCache
from mwactl.data.geometry import for_random_crops
from mwactl.data.picture import open_image
from mwactl.errors import IncompatibleError, VerificationError
from mwactl.home import cache_path, runs_path
from mwactl.registry import Registry
from mwactl.workflow.evaluate import EvaluationOptions, evaluate_model
from mwactl.workflow.picture_source import PictureSource, evaluation_source, training_source
from mwactl.workflow.splits import CheckedSplit, checked_split

# Where there is one core, torch warns of two loader processes.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture
def backbone(tiny_clip: Path) -> Backbone:
    plugin, spec = find_spec(f"clip:local-dir:{tiny_clip}")
    return plugin.build_without_weights(spec)


@pytest.fixture
def split(tiny_data: str, listener) -> CheckedSplit:
    return checked_split(tiny_data, "val", on_error="stop", reporter=listener)


def shown(source: PictureSource, split: CheckedSplit) -> torch.Tensor:
    """Every picture once, [n, 3, h, w]."""
    images = split.dataset.images
    pictures = source.pictures or (lambda index: open_image(images[index]))
    return torch.stack([source.transform(pictures(index)) for index in range(len(images))])


def cached_files() -> list[Path]:
    return list((cache_path() / "pictures").rglob("*.rgb"))


# -- which mode reads and writes what ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["off", "auto", "on"])
def test_every_mode_shows_an_evaluation_the_same_pixels(backbone, split, listener, mode):
    plain = shown(PictureSource(backbone.image_transform()), split)
    assert torch.equal(shown(evaluation_source(backbone, split, mode, listener), split), plain)
    evaluation_source(backbone, split, "on", listener)
    assert torch.equal(shown(evaluation_source(backbone, split, mode, listener), split), plain)


def test_auto_uses_what_is_there_and_writes_nothing(backbone, split, listener):
    assert evaluation_source(backbone, split, "auto", listener).pictures is None
    assert cached_files() == []
    evaluation_source(backbone, split, "on", listener)
    before = cached_files()
    assert before
    assert evaluation_source(backbone, split, "auto", listener).pictures is not None
    assert evaluation_source(backbone, split, "off", listener).pictures is None
    assert cached_files() == before


def test_auto_decodes_what_the_cache_lacks(backbone, split, listener):
    some = replace(split, dataset=split.dataset.without({0, 3}), digests=[*split.digests[1:3], *split.digests[4:]])
    evaluation_source(backbone, some, "on", listener)
    source = evaluation_source(backbone, split, "auto", listener)
    assert source.pictures.count == 6
    assert torch.equal(shown(source, split), shown(PictureSource(backbone.image_transform()), split))


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_training_without_random_crops_shows_the_same_pixels(backbone, split, listener, augment):
    data = DataConfig(name="tiny", augment=augment, cache="on")
    source = training_source(backbone, split, data, listener)
    assert source.pictures.count == 8
    assert torch.equal(shown(source, split), shown(PictureSource(backbone.image_transform()), split))


@pytest.mark.parametrize("augment", ["crop", "colour"])
@pytest.mark.parametrize("mode", ["off", "auto", "on"])
def test_random_crops_come_from_the_cache_only_where_a_recipe_says_so(backbone, split, listener, augment, mode):
    """They are an approximation, and a run's result must not depend on what lies on a disk."""
    training_source(backbone, split, DataConfig(name="tiny", augment=augment, cache="on"), listener)
    source = training_source(backbone, split, DataConfig(name="tiny", augment=augment, cache=mode), listener)
    assert (source.pictures is not None) == (mode == "on")
    torch.manual_seed(0)
    cropped = shown(source, split)
    torch.manual_seed(0)
    augmented = backbone.image_transform(Augmentation(0.7, colour=augment == "colour"))
    # These pictures are small (40 × 36): they are kept as they are, and so nothing is lost.
    assert torch.equal(cropped, shown(PictureSource(augmented), split))


def test_crops_from_large_pictures_lose_little():
    """Of smooth pictures five times as large as what is kept: less than two levels of 255 on average."""
    y, x = np.mgrid[0:240, 0:320]
    waves = np.stack([np.sin(x / 9 + k) + np.cos(y / 7 - k) for k in range(3)], -1)
    picture = Image.fromarray((127.5 + 60 * waves).astype(np.uint8))
    kept = for_random_crops((32, 32), 0.7)(picture)
    assert min(kept.size) == 45
    left, top, right, bottom = 0.1, 0.2, 0.85, 0.95

    def crop(of: Image.Image) -> np.ndarray:
        box = (left * of.width, top * of.height, right * of.width, bottom * of.height)
        return np.asarray(of.resize((32, 32), Image.Resampling.BICUBIC, box=box)).astype(float)

    difference = np.abs(crop(picture) - crop(kept))
    assert 0 < difference.mean() < 2


class Opaque:
    """A backbone whose transform is one function."""

    def __init__(self, whole) -> None:
        self._whole = whole

    def image_transform(self, augmentation=None):
        def transform(picture: Image.Image) -> torch.Tensor:
            return self._whole(picture)

        return transform


def test_a_transform_that_cannot_be_cut_is_an_error_only_where_a_cache_is_asked_for(backbone, split, listener):
    opaque = Opaque(backbone.image_transform())
    evaluation_source(backbone, split, "on", listener)  # there is a cache, of another transform
    plain = shown(PictureSource(backbone.image_transform()), split)
    for mode in ("off", "auto"):
        assert torch.equal(shown(evaluation_source(opaque, split, mode, listener), split), plain)
    with pytest.raises(IncompatibleError, match="cannot be cached"):
        evaluation_source(opaque, split, "on", listener)


def test_on_and_off_are_words_in_a_recipe_and_no_booleans(tiny_recipe: Path):
    text = tiny_recipe.read_text()
    for word in ("on", "off"):
        tiny_recipe.write_text(text.replace("  workers: 0\n", f"  workers: 0\n  cache: {word}\n"))
        assert load_recipe(str(tiny_recipe)).recipe.data.cache == word


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_from_the_cache_publishes_the_same_tensors(train, augment, workers):
    """For crops too: the tiny pictures are smaller than what is kept, so that nothing is lost."""
    options = [f"data.augment={augment}", f"data.workers={workers}", "train.epochs=1"]
    plain = train(*options).entry.manifest
    cached = train(*options, "data.cache=on").entry.manifest
    assert cached["tensors"] == plain["tensors"]
    assert cached["metrics"] == plain["metrics"]
    assert cached_files()


def test_training_really_reads_the_cache(train, monkeypatch: pytest.MonkeyPatch):
    train("data.cache=on", "data.augment=flip", "train.epochs=1")
    monkeypatch.setattr("mwactl.data.loader.open_image", lambda path: pytest.fail(f"{path} was decoded"))
    train("data.cache=auto", "data.augment=flip", "train.epochs=1", "train.seed=4")


def folders() -> set[str]:
    return {path.name for path in runs_path().iterdir()}


def test_a_cache_that_gives_the_same_pixels_is_no_part_of_a_runs_identity(train):
    train("train.epochs=1", "data.augment=flip")
    before = folders()
    train("train.epochs=1", "data.augment=flip", "data.cache=on")
    train("train.epochs=1", "data.augment=flip", "data.cache=off")
    assert folders() == before


def test_a_cache_that_approximates_is_part_of_a_runs_identity(train):
    train("train.epochs=1")
    before = folders()
    train("train.epochs=1", "data.cache=off")
    assert folders() == before
    train("train.epochs=1", "data.cache=on")
    assert len(folders()) == 2


def test_pictures_that_are_skipped_are_not_cached(train, copied_pictures: Path, add_data, listener):
    add_data("tiny", copied_pictures)
    (copied_pictures / "images" / "train-03.png").write_bytes(b"not a picture")
    train("data.cache=on", "data.on_error=skip", "train.epochs=1", reporter=listener)
    split = checked_split("tiny", "train", on_error="skip", reporter=listener)
    assert len(split.dataset.images) == 23
    assert cached_files()


def test_a_file_that_changed_is_made_again(train, copied_pictures: Path, add_data, backbone, listener):
    add_data("tiny", copied_pictures)
    train("data.cache=on", "data.augment=none", "train.epochs=1")
    Image.new("RGB", (50, 60), (7, 90, 200)).save(copied_pictures / "images" / "train-03.png")
    split = checked_split("tiny", "train", on_error="stop", reporter=listener)
    assert evaluation_source(backbone, split, "auto", listener).pictures.count == 23
    assert torch.equal(
        shown(evaluation_source(backbone, split, "on", listener), split),
        shown(PictureSource(backbone.image_transform()), split),
    )


def test_a_damaged_picture_ends_the_run_with_the_command_that_helps(train, copied_pictures: Path, add_data):
    add_data("tiny", copied_pictures)
    train("data.cache=on", "data.augment=none", "train.epochs=1")
    for path in cached_files():
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(VerificationError, match="is damaged") as caught:
        train("data.cache=on", "data.augment=none", "train.epochs=1", "data.workers=1")
    assert "mwactl data cache tiny --remove" in str(caught.value)


def test_an_evaluation_takes_its_pictures_from_a_cache_that_is_there(
    registry: Registry, backbone, split, listener, monkeypatch: pytest.MonkeyPatch, tiny_clip
):
    from mwactl.backbone import WeightsRequest
    from mwactl.workflow.load import build_backbone

    model = build_backbone(f"clip:local-dir:{tiny_clip}", WeightsRequest(None, 0, False, listener))
    plain = evaluate_model(model, split, EvaluationOptions(workers=0), listener)
    evaluation_source(backbone, split, "on", listener)
    monkeypatch.setattr("mwactl.data.loader.open_image", lambda path: pytest.fail(f"{path} was decoded"))
    assert evaluate_model(model, split, EvaluationOptions(workers=0), listener).as_dict() == plain.as_dict()
    assert PictureCache.exists()
