from __future__ import annotations

import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from mwactl.config import options, packaged_recipes
from mwactl.config.options import recipe_type
from mwactl.config.schema import recipe_schema, recipe_schema_json


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    Draft202012Validator.check_schema(recipe_schema())
    return Draft202012Validator(recipe_schema())


def test_packaged_recipes_are_valid(schema):
    for recipe in packaged_recipes().values():
        schema.validate(yaml.safe_load(recipe.text.replace("1e-3", "0.001").replace("3e-3", "0.003")))


def test_a_file_must_have_what_a_recipe_needs_unless_it_extends_one(schema, minimal):
    whole = yaml.safe_load(minimal)
    schema.validate(whole)
    for part in ({"name": "a"}, {**whole, "data": {}}, {**whole, "backbone": {"weights": "random"}}):
        assert not schema.is_valid(part)
        schema.validate({"extends": "coco", **part})
    assert not schema.is_valid({**whole, "extends": 3})


@pytest.mark.parametrize(
    "change", [{"lr": "fast"}, {"lr": 0}, {"bach_size": 4}, {"precision": "fp8"}, {"betas": [0.9]}]
)
def test_what_the_recipe_refuses_an_editor_refuses(schema, minimal, change):
    assert not schema.is_valid({**yaml.safe_load(minimal), "train": change})


def test_every_option_and_its_text_is_there_on_one_line(schema):
    def leaves(part, prefix=""):
        if "$ref" in part:
            part = {**recipe_schema()["$defs"][part["$ref"].rpartition("/")[2]], **part}
        for name, inner in part.get("properties", {}).items():
            yield f"{prefix}{name}", inner
            yield from leaves(inner, f"{prefix}{name}.")

    found = dict(leaves({key: value for key, value in recipe_schema().items() if key != "then"}))
    assert found.keys() == {"extends", *options()}
    for path, option in options().items():
        if not option.is_section:
            assert found[path]["description"] == option.description


def test_making_the_schema_leaves_the_recipes_own_as_it_is():
    before = recipe_type().json_schema()
    assert recipe_schema_json() == recipe_schema_json()
    assert json.loads(recipe_schema_json()) == recipe_schema()
    assert recipe_type().json_schema() == before
