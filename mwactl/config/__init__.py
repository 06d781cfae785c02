"""Recipes: the typed schema, and loading one with every mistake reported at once, by file and line. No torch."""

from __future__ import annotations

from mwactl.config.load import LoadedRecipe, load_recipe, parse_recipe, read_recipe, recipe_from_dict
from mwactl.config.options import Option, options
from mwactl.config.recipe import (
    BackboneConfig,
    DataConfig,
    MethodConfig,
    Modality,
    MwaConfig,
    Recipe,
    TrainConfig,
)
from mwactl.config.templates import PackagedRecipe, description_of, packaged_recipe, packaged_recipes
from mwactl.config.text import RecipeText, find_recipe

__all__ = [
    "BackboneConfig",
    "DataConfig",
    "LoadedRecipe",
    "MethodConfig",
    "Modality",
    "MwaConfig",
    "Option",
    "PackagedRecipe",
    "Recipe",
    "RecipeText",
    "TrainConfig",
    "description_of",
    "find_recipe",
    "load_recipe",
    "options",
    "packaged_recipe",
    "packaged_recipes",
    "parse_recipe",
    "read_recipe",
    "recipe_from_dict",
]
