from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from mwactl.config import load_recipe, packaged_recipe, packaged_recipes, parse_recipe
from mwactl.errors import NotFoundError, UsageError

NAMES = ["captions", "clip-tiny-emoji", "coco", "flickr30k", "flickr8k", "quickstart"]
BUNDLED_DATA = {"quickstart": "mwactl quickstart", "clip-tiny-emoji": "python benchmarks/pretrain_clip_tiny_emoji.py"}
"""Recipe → the command that brings its data along."""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation's package folder, still empty."""
    package = tmp_path / "site-packages" / "mwactl"
    package.mkdir(parents=True)
    monkeypatch.setattr(resources, "files", lambda name: package)
    return package


def test_the_recipes_are_these():
    assert list(packaged_recipes()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_recipe_loads_and_says_what_it_is_for(name):
    loaded = load_recipe(name)
    assert loaded.packaged
    assert 20 < len(packaged_recipe(name).description) < 110


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_recipe_can_be_used_without_filling_in_blanks(name):
    text = packaged_recipe(name).text
    assert not re.search(r"TODO|FIXME|XXX|<[a-z]|/path/to", text)
    data = load_recipe(name).recipe.data.name
    if command := BUNDLED_DATA.get(name):
        assert command in text
    else:
        assert f"mwactl data add {data} --format " in text
        assert f"mwactl train {name}.yaml" in text


@pytest.mark.parametrize("name", ["coco", "flickr30k"])
def test_the_papers_setting(name):
    recipe = load_recipe(name).recipe
    mwa, train = recipe.method.mwa, recipe.train
    assert (mwa.knowledge_extractor, mwa.alignment_enhancer, mwa.preset, recipe.method.name) == (
        64,
        128,
        "paper",
        "mwa",
    )
    assert (recipe.backbone.name, train.batch_size) == ("beit3-large", 512)
    assert (train.lr, train.epochs) == (1e-3, 20)
    assert (recipe.data.name, recipe.data.train_split, recipe.data.val_split) == (name, "train", "val")


def test_own_pictures_and_flickr8k_start_from_the_small_model():
    for name, data in (("captions", "my-pictures"), ("flickr8k", "flickr8k")):
        recipe = load_recipe(name).recipe
        assert (recipe.backbone.name, recipe.data.name) == ("clip-vit-b-32", data)


def test_commented_out_options_of_the_recipes_are_real_ones():
    text = packaged_recipe("flickr8k").text
    uncommented, count = re.subn(r"^( +)# (?=[a-z_]+: )", r"\1", text, flags=re.MULTILINE)
    assert count == 4
    recipe = parse_recipe(uncommented).recipe
    assert (recipe.data.workers, recipe.method.mwa.layers) == (1, "last 4")
    assert (recipe.data.captions_per_image, recipe.train.micro_batch_size) == (5, "auto")


def test_templates_inside_an_installed_package_are_found(installed):
    (installed / "templates").mkdir()
    (installed / "templates" / "a.yaml").write_text("# What a is for.\nname: a\n", encoding="utf-8")
    (installed / "templates" / "card.md").write_text("not a recipe", encoding="utf-8")
    assert {name: recipe.description for name, recipe in packaged_recipes().items()} == {"a": "What a is for."}


def test_templates_beside_the_package_of_a_checkout_are_found(installed):
    beside = installed.parent / "templates"
    beside.mkdir()
    (beside / "b.yaml").write_text("# b\n", encoding="utf-8")
    assert list(packaged_recipes()) == ["b"]
    (installed / "templates").mkdir()
    assert packaged_recipes() == {}, "the package's own templates come first"


def test_copy_never_overwrites_unless_told_to(tmp_path):
    recipe = packaged_recipe("coco")
    target = tmp_path / "mine.yaml"
    target.write_text("precious", encoding="utf-8")
    with pytest.raises(UsageError, match="already there"):
        recipe.copy_to(target)
    assert target.read_text(encoding="utf-8") == "precious"
    assert recipe.copy_to(target, replace=True) == target
    assert target.read_text(encoding="utf-8") == recipe.text


def test_copy_into_a_folder_keeps_the_name(tmp_path):
    assert packaged_recipe("coco").copy_to(tmp_path) == tmp_path / "coco.yaml"
    with pytest.raises(UsageError, match="already there"):
        packaged_recipe("coco").copy_to(tmp_path)


def test_copy_to_an_impossible_place_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be written"):
        packaged_recipe("coco").copy_to(tmp_path / "file" / "coco.yaml")


def test_unknown_packaged_recipe_gets_the_close_name():
    with pytest.raises(NotFoundError, match="did you mean flickr8k"):
        packaged_recipe("flicker8k")
