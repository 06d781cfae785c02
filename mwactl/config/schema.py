"""The recipe as a JSON schema, for editors that check and complete YAML while it is typed."""

from __future__ import annotations

import json
from typing import Any

from mwactl.config.extends import EXTENDS
from mwactl.config.options import recipe_type

SCHEMA_FILE = "mwactl-recipe.schema.json"
"""What the schema is called beside a recipe."""
#: Told to yaml-language-server, which VS Code, Neovim, Emacs and others use. A relative path starts at the recipe.
MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe's file, read off the recipe's types.

    What is required is so only of a file that extends no other one. Of text that is a number, and of YAML 1.1's ways
    to say true, an editor knows less than `mwactl recipes check`, which has the last word.
    """
    schema = recipe_type().json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    needed = _required(schema, definitions)
    for part in (schema, *definitions.values()):
        part.pop("required", None)
        _tidy(part)
    description = "The recipe that this one changes: a file, from this file's folder, or a packaged recipe's name."
    first = {EXTENDS: {"description": description, "minLength": 1, "type": "string"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "A recipe of mwactl",
        "properties": first | schema["properties"],
        "if": {"not": {"required": [EXTENDS]}},
        "then": needed,
    }


def recipe_schema_json() -> str:
    """The JSON schema as a file holds it."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def _required(section: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """What a section must have, and what the sections that it must have must have, as a schema of its own."""
    names = section.get("required", [])
    inside = {}
    for name in names:
        definition = section["properties"][name].get("$ref", "").rpartition("/")[2]
        if needed := _required(definitions.get(definition, {}), definitions):
            inside[name] = needed
    return ({"required": names} if names else {}) | ({"properties": inside} if inside else {})


def _tidy(part: Any) -> None:
    """Take out the titles that pydantic makes of names; say a pattern in words, where the recipe has words for it."""
    if isinstance(part, list):
        for item in part:
            _tidy(item)
    if not isinstance(part, dict):
        return
    if isinstance(part.get("title"), str):
        del part["title"]
    if isinstance(part.get("description"), str):
        part["description"] = " ".join(part["description"].split())
    if isinstance(part.get("expected"), str):
        part["patternErrorMessage"] = f"It must be {part.pop('expected')}."
    for inner in part.values():
        _tidy(inner)
