"""From a file's name and `option=value` arguments to a checked recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import yaml

from mwactl.config.extends import merged, read_chain
from mwactl.config.options import options, recipe_type
from mwactl.config.overrides import apply_override
from mwactl.config.problems import Place, Problems
from mwactl.config.recipe import Recipe
from mwactl.config.source import tree_of_plain
from mwactl.config.text import RecipeText, find_recipe
from mwactl.config.validate import validate
from mwactl.files import canonical_json, sha256_bytes


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe as it will be used, whatever it extends, and where it came from.

    Args:
        recipe: The recipe, overrides applied.
        source: The file's path, or `packaged recipe NAME`.
        packaged: It came with the package; the user has not written it.
        extends: The sources of the recipe that it extends, of the one that this extends, and so on.
        overrides: The `option=value` arguments that were applied.
        origins: Where each option that is not a default was written, by dotted path.
    """

    recipe: Recipe
    source: str
    packaged: bool = False
    extends: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the effective recipe's canonical JSON: comments, order and spelling do not count."""
        return sha256_bytes(canonical_json(self.as_dict()))

    def as_dict(self) -> dict[str, Any]:
        """The whole recipe, defaults included, as what JSON can hold."""
        document: dict[str, Any] = recipe_type().dump_python(self.recipe, mode="json")
        return document

    def all_origins(self) -> dict[str, str]:
        """Where each option's value comes from: `FILE line 12`, `override "train.lr=1e-4"`, or `default`."""
        return {path: self.origins.get(path, "default") for path, option in options().items() if not option.is_section}

    def as_yaml(self, *, origins: bool = False) -> str:
        """The whole recipe, defaults included, as a file that loads to the same recipe.

        Args:
            origins: Say behind each option where it was set, in a comment.
        """
        lines = []
        document, comments = self.as_dict(), self.all_origins()
        for path, option in options().items():
            line = "  " * path.count(".") + f"{option.name}:"
            if not option.is_section:
                line += f" {_flow(_at(document, path))}"
                line = f"{line:<38}  # {_printable(comments[path])}" if origins else line
            lines.append(line)
        return "\n".join(lines) + "\n"


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Load a recipe and check it.

    Args:
        name_or_path: A file; or, where no such file is, a packaged recipe's name, with or without `.yaml`.
        overrides: `a.b.c=value` arguments, applied in order.

    Raises:
        NotFoundError: It is neither a file nor a packaged recipe.
        RecipeError: The recipe, one that it extends, or an override has mistakes; all are listed, each with its place.
        UsageError: A file cannot be read.
    """
    return read_recipe(find_recipe(name_or_path), overrides)


def parse_recipe(text: str, source: str = "recipe", overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe's YAML.

    Args:
        text: The YAML.
        source: What messages call it: `SOURCE line 12`; a recipe that it extends is looked for in the same folder.
        overrides: `a.b.c=value` arguments, applied in order.

    Raises:
        RecipeError: There are mistakes; all of them are listed, each with its place.
        UsageError: The file of a recipe that it extends cannot be read.
    """
    return read_recipe(RecipeText(text, source), overrides)


def read_recipe(text: RecipeText, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe, with all that it extends.

    Raises:
        RecipeError: There are mistakes; all of them are listed, each with its place.
        UsageError: The file of a recipe that it extends cannot be read.
    """
    problems = Problems()
    chain, complete = read_chain(text, problems)
    if not chain:
        problems.raise_if_any()
    tree = reduce(lambda over, base: merged(base, over), [tree for _, tree in chain])
    for override in overrides:
        apply_override(tree, override, problems)
    recipe = validate(tree, problems, complete=complete)
    entries = {path: tree.find(path) for path in options()}
    origins = {path: entry.place.text for path, entry in entries.items() if entry}
    bases = tuple(base.source for base, _ in chain[1:])
    return LoadedRecipe(recipe, text.source, text.packaged, bases, tuple(overrides), origins)


def recipe_from_dict(document: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Check a recipe that was stored with `LoadedRecipe.as_dict`, in an adapter's manifest for example.

    Raises:
        RecipeError: It has options that this version does not know, or lacks some; `source` is named.
    """
    return validate(tree_of_plain(document, Place.in_file(source)), Problems())


def _at(document: dict[str, Any], path: str) -> Any:
    """The value of a dotted path."""
    value: Any = document
    for name in path.split("."):
        value = value[name]
    return value


def _printable(text: str) -> str:
    """The text on one line, whatever was in it."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _flow(value: Any) -> str:
    """A value in YAML, on one line."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text: str = yaml.safe_dump(value, default_flow_style=True, default_style=style, allow_unicode=True, width=1 << 20)
    return text.removesuffix("...\n").rstrip("\n")
