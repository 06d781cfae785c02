from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mwactl.config import (
    BackboneConfig,
    DataConfig,
    LoadedRecipe,
    MwaConfig,
    Recipe,
    load_recipe,
    packaged_recipes,
    parse_recipe,
    recipe_from_dict,
)
from mwactl.errors import NotFoundError, RecipeError, UsageError
from mwactl.files import canonical_json, sha256_bytes


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No file of the checkout is taken for a recipe."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_file_wins_over_the_packaged_recipe_of_its_name(minimal):
    Path("coco.yaml").write_text(minimal, encoding="utf-8")
    loaded = load_recipe("coco.yaml")
    assert (loaded.recipe.name, loaded.packaged, loaded.source) == ("mine", False, "coco.yaml")


@pytest.mark.parametrize("name", ["coco", "coco.yaml"])
def test_packaged_recipe_is_used_where_there_is_no_file(name):
    loaded = load_recipe(name, ["train.epochs=5"])
    assert (loaded.packaged, loaded.source) == (True, "packaged recipe coco")
    assert (loaded.recipe.name, loaded.recipe.train.epochs, loaded.overrides) == ("coco-mwa", 5, ("train.epochs=5",))


def test_folder_of_a_recipes_name_does_not_hide_it():
    Path("coco").mkdir()
    assert load_recipe("coco").packaged


def test_mistake_in_a_file_names_the_path_as_typed(minimal):
    Path("sub").mkdir()
    Path("sub/my.yaml").write_text(f"{minimal}oops: 1\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe("sub/my.yaml")
    assert [problem.where for problem in caught.value.problems] == ["sub/my.yaml line 6"]


def test_unknown_recipe_is_not_found_with_close_names(minimal):
    Path("my-coco.yaml").write_text(minimal, encoding="utf-8")
    with pytest.raises(NotFoundError) as packaged:
        load_recipe("cocoo")
    assert "coco" in str(packaged.value.why)
    with pytest.raises(NotFoundError) as file:
        load_recipe("my-cocoa.yaml")
    assert "my-coco.yaml" in str(file.value.why)
    assert file.value.fix == "mwactl recipes list"


@pytest.mark.parametrize("name", ["", ".", "/", "no/such/folder/coco.yaml"])
def test_odd_paths_are_not_found(name):
    with pytest.raises(NotFoundError):
        load_recipe(name)


def test_text_that_is_not_utf8_is_reported_with_its_line():
    Path("r.yaml").write_bytes(b"name: a\nbackbone: {name: \xff}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml")
    assert [problem.where for problem in caught.value.problems] == ["r.yaml line 2"]


def test_byte_order_mark_and_windows_line_ends_do_not_matter(minimal):
    Path("r.yaml").write_bytes(b"\xef\xbb\xbf" + minimal.replace("\n", "\r\n").encode())
    assert load_recipe("r.yaml").digest == parse_recipe(minimal).digest


def test_file_that_may_not_be_read_is_a_usage_error(minimal, monkeypatch):
    Path("r.yaml").write_text(minimal, encoding="utf-8")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match="cannot be read") as caught:
        load_recipe("r.yaml")
    assert (caught.value.where, caught.value.why) == ("r.yaml", "Permission denied")


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
def test_yaml_round_trip_of_every_packaged_recipe(name):
    loaded = load_recipe(name)
    for text in (loaded.as_yaml(), loaded.as_yaml(origins=True)):
        again = parse_recipe(text)
        assert again.recipe == loaded.recipe
        assert again.digest == loaded.digest


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "~",
        "no",
        "007",
        "1e-3",
        " a ",
        "a: b",
        "x #y",
        "'q'",
        '"',
        "[x",
        "é",
        "line\nline",
        "\u2028",
        "*a",
        "!t",
        "-",
        "%",
    ],
)
def test_yaml_round_trip_of_awkward_text(text):
    recipe = Recipe(name="a", backbone=BackboneConfig(name=text, weights=text), data=DataConfig(name=text))
    loaded = LoadedRecipe(recipe, "memory", origins={"backbone.name": text})
    assert parse_recipe(loaded.as_yaml()).recipe == recipe
    assert parse_recipe(loaded.as_yaml(origins=True)).recipe == recipe


def test_yaml_round_trip_of_everything_that_is_not_a_default(parsed):
    overrides = ["train.lr=1e-05", "train.betas=[0.5,0]", "train.clip_norm=null", "method.train_logit_scale=yes"]
    overrides += [
        "method.mwa.alpha=learned",
        "method.mwa.layers=last 2",
        "method.mwa.modalities=[text]",
        "data.workers=0",
    ]
    recipe = parsed("", overrides)
    assert parse_recipe(LoadedRecipe(recipe, "memory").as_yaml()).recipe == recipe


def test_stored_recipe_comes_back_from_json():
    loaded = load_recipe(
        "coco", ["method.mwa.alpha=learned", "train.lr=1e-05", "data.val_split=null", "method.mwa.bias=no"]
    )
    assert recipe_from_dict(json.loads(canonical_json(loaded.as_dict()))) == loaded.recipe


def test_digest_is_the_effective_recipes(minimal):
    plain = parse_recipe(minimal)
    assert plain.digest == sha256_bytes(canonical_json(plain.as_dict()))
    spelt_out = parse_recipe(f"# comment\ntrain: {{lr: 0.001, epochs: 20}}\n{minimal}", "elsewhere")
    assert spelt_out.digest == plain.digest
    assert parse_recipe(minimal, overrides=["train.epochs=20"]).digest == plain.digest
    assert parse_recipe(minimal, overrides=["train.epochs=21"]).digest != plain.digest


def test_digest_of_a_changed_recipe_is_another():
    loaded = load_recipe("coco")
    changed = replace(loaded, recipe=replace(loaded.recipe, name="other"))
    assert changed.digest != loaded.digest


def test_as_dict_holds_every_default(minimal):
    document = parse_recipe(minimal).as_dict()
    assert json.loads(json.dumps(document)) == document
    assert document["train"]["betas"] == [0.9, 0.98]
    assert document["method"]["mwa"].keys() == vars(MwaConfig()).keys()


def test_origins_say_where_each_value_comes_from(minimal):
    text = parse_recipe(minimal, "r.yaml", ["train.lr=1e-4"]).as_yaml(origins=True)
    origins = {line.split(":")[0].strip(): line.rpartition("# ")[2] for line in text.splitlines() if "#" in line}
    assert (origins["lr"], origins["epochs"]) == ('override "train.lr=1e-4"', "default")
    assert "  name: pictures                        # r.yaml line 5" in text
