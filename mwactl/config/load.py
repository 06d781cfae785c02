"""From a file's name and `option=value` arguments to a checked recipe."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mwactl.config.options import options, recipe_type
from mwactl.config.overrides import apply_override
from mwactl.config.problems import Place, Problems
from mwactl.config.recipe import Recipe
from mwactl.config.source import Entry, tree_of_plain, tree_of_text
from mwactl.config.templates import packaged_recipes
from mwactl.config.validate import validate
from mwactl.errors import NotFoundError, RecipeError, UsageError
from mwactl.files import canonical_json, sha256_bytes


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe as it will be used, and where it came from.

    Args:
        recipe: The recipe, overrides applied.
        source: The file's path, or `packaged recipe NAME`.
        packaged: It came with the package; the user has not written it.
        overrides: The `option=value` arguments that were applied.
        origins: Where each option that is not a default was written, by dotted path.
    """

    recipe: Recipe
    source: str
    packaged: bool = False
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

    def as_yaml(self, *, origins: bool = False) -> str:
        """The whole recipe, defaults included, as a file that loads to the same recipe.

        Args:
            origins: Say behind each option where it was set, in a comment.
        """
        lines = []
        document = self.as_dict()
        for path, option in options().items():
            line = "  " * path.count(".") + f"{option.name}:"
            if not option.is_section:
                line += f" {_flow(_at(document, path))}"
                line = f"{line:<38}  # {_printable(self.origins.get(path, 'default'))}" if origins else line
            lines.append(line)
        return "\n".join(lines) + "\n"


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Load a recipe and check it.

    Args:
        name_or_path: A file; or, where no such file is, a packaged recipe's name, with or without `.yaml`.
        overrides: `a.b.c=value` arguments, applied in order.

    Raises:
        NotFoundError: It is neither a file nor a packaged recipe.
        RecipeError: The recipe or an override has mistakes; all of them are listed, each with its place.
    """
    path = Path(name_or_path)
    if path.is_file():
        return parse_recipe(_read(path), name_or_path, overrides)
    name = name_or_path.removesuffix(".yaml")
    packaged = packaged_recipes()
    if name in packaged:
        return parse_recipe(packaged[name].text, f"packaged recipe {name}", overrides, packaged=True)
    raise _not_found(name_or_path, list(packaged))


def parse_recipe(
    text: str, source: str = "recipe", overrides: Sequence[str] = (), *, packaged: bool = False
) -> LoadedRecipe:
    """Read and check a recipe's YAML.

    Args:
        text: The YAML.
        source: What messages call it: `SOURCE line 12`.
        overrides: `a.b.c=value` arguments, applied in order.
        packaged: It came with the package.

    Raises:
        RecipeError: There are mistakes; all of them are listed, each with its place.
    """
    problems = Problems()
    tree = tree_of_text(text, lambda line: Place.in_file(source, line), problems)
    if tree is None:
        problems.raise_if_any()
    if tree is None or not isinstance(tree.value, dict):
        place = Place.in_file(source)
        why = "it is empty" if tree is None or tree.value is None else "it is a list or a single value"
        problems.add(place, "a recipe must be `option: value` lines", why=why, fix="mwactl recipes show coco")
        tree = Entry({}, place)
        problems.raise_if_any()
    tree.place = Place.in_file(source)
    for override in overrides:
        apply_override(tree, override, problems)
    recipe = validate(tree, problems)
    entries = {path: tree.find(path) for path in options()}
    origins = {path: entry.place.text for path, entry in entries.items() if entry}
    return LoadedRecipe(recipe, source, packaged, tuple(overrides), origins)


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


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = UsageError(
            "the recipe is not UTF-8 text",
            where=f"{path} line {line}",
            why=f"byte 0x{error.object[error.start]:02x} does not belong there",
            fix="save the file as UTF-8",
        )
        raise RecipeError([problem]) from error
    except OSError as error:
        raise UsageError("the recipe cannot be read", where=str(path), why=error.strerror) from error


def _not_found(name_or_path: str, packaged: list[str]) -> NotFoundError:
    path = Path(name_or_path)
    beside = sorted(str(path.with_name(file.name)) for file in path.parent.glob("*.yaml")) if path.name else []
    close = difflib.get_close_matches(name_or_path, [*packaged, *beside], n=3)
    why = "there is no file of that name" + ("" if path.name != name_or_path else ", and no packaged recipe")
    return NotFoundError(
        f"there is no recipe `{name_or_path}`" if not path.is_dir() else f"`{name_or_path}` is a folder, not a recipe",
        why=why + (f"; did you mean {' or '.join(close)}?" if close else ""),
        fix="mwactl recipes list",
    )
