"""What options a recipe has, and what each may be, in words: read off the schema, never written twice."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from mwactl.config.recipe import Recipe

_WORDS = {
    "object": "a section: its options on the lines below it, indented",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "string": "text (not empty)",
    "null": "`null`",
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option, or one section, of a recipe.

    Args:
        path: Dotted: `train.batch_size`.
        is_section: It holds options.
        is_text: Any text may be a value, so a value is taken as it was typed.
        nullable: It may be null.
        required: It has no default.
        default: The default; `None` for sections and required options too.
        choices: The words it may be.
        expected: What it may be, in words that follow "must be".
        description: What it decides.
    """

    path: str
    is_section: bool
    is_text: bool
    nullable: bool
    required: bool
    default: Any
    choices: tuple[str, ...]
    expected: str
    description: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def section(self) -> str:
        """The path of the section it is in; empty for the recipe itself."""
        return self.path.rpartition(".")[0]

    def summary(self) -> str:
        """Its type and default on one line."""
        if self.is_section:
            return self.expected
        return f"{self.expected}; {'required' if self.required else f'default {written(self.default)}'}"


@cache
def recipe_type() -> TypeAdapter[Recipe]:
    """What validates a recipe."""
    return TypeAdapter(Recipe)


@cache
def options() -> dict[str, Option]:
    """Every option and section of a recipe by its dotted path, in the schema's order."""
    schema = recipe_type().json_schema()
    return {option.path: option for option in _options_of(schema, schema["$defs"], "")}


def written(value: Any) -> str:
    """A value as it is written in a recipe: `null`, `true`, `[image, text]`, `0.001`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    return str(value)


def similar_option(path: str) -> Option | None:
    """The option that someone who wrote `path` most likely meant."""
    section, _, name = path.rpartition(".")
    prefix = f"{section}." if section else ""
    here = {option.name: option for option in options().values() if option.section == section}
    elsewhere = {option.name: option for option in reversed(options().values()) if option.path.startswith(prefix)}
    everywhere = {option.name: option for option in reversed(options().values())}
    if name in elsewhere:
        return elsewhere[name]
    if name in everywhere:
        return everywhere[name]
    for candidates in (here, elsewhere, everywhere):
        close = difflib.get_close_matches(name, candidates, n=1)
        if close:
            return candidates[close[0]]
    return None


def _options_of(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[Option]:
    """The options of one section's JSON schema, depth first."""
    for name, found in schema["properties"].items():
        part = found
        if reference := part.get("$ref"):
            part = {**definitions[reference.rpartition("/")[2]], **part}
        is_section = "properties" in part
        variants = part.get("anyOf", [part])
        option = Option(
            path=prefix + name,
            is_section=is_section,
            is_text=any(_is_free_text(variant) for variant in variants),
            nullable={"type": "null"} in variants,
            required=name in schema.get("required", ()),
            default=part.get("default"),
            choices=tuple(choice for variant in variants for choice in _choices(variant)),
            expected=" or ".join(_in_words(variant) for variant in variants),
            description=" ".join(part.get("description", "").split()),
        )
        yield option
        if is_section:
            yield from _options_of(part, definitions, f"{option.path}.")


def _is_free_text(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "string" and not _choices(schema)


def _choices(schema: dict[str, Any]) -> list[str]:
    """The words that a value, or an item of it, may be."""
    if "items" in schema:
        return _choices(schema["items"])
    return [schema["const"]] if "const" in schema else list(schema.get("enum", []))


def _in_words(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in words that follow "must be"."""
    if "expected" in schema:
        return str(schema["expected"])
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}, each {_in_words(schema['prefixItems'][0])}"
    if "items" in schema:
        return f"a list, each {_in_words(schema['items'])}"
    if choices := [f"`{choice}`" for choice in _choices(schema)]:
        return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    return _WORDS[schema["type"]] + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    words = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    bounds = [f"{word} {schema[keyword]:,}" for keyword, word in words.items() if keyword in schema]
    return f" ({' and '.join(bounds)})" if bounds else ""
