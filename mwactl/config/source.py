"""A recipe's text as a tree that remembers where every value was written.

YAML is composed, not constructed: a plain `no`, `007` or `1e-3` stays the text that was typed, and the schema decides
what it is. (YAML 1.1 would make them `False`, `7` and, of all things, a string.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import yaml

from mwactl.config.problems import Place, Problems

_NULL = "tag:yaml.org,2002:null"
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "map", "merge", "seq", "str", "timestamp")}
_EXAMPLE = "compare with what `mwactl recipes show coco` prints"


@dataclass
class Entry:
    """One value of a recipe.

    Args:
        value: A scalar's text, `None` for null, the items of a list, or the options of a section.
        place: Where it was written.
    """

    value: str | list[Entry] | dict[str, Entry] | None
    place: Place

    def plain(self) -> object:
        """The value without places: text, `None`, lists and dictionaries."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value

    def find(self, path: str) -> Entry | None:
        """The entry of a dotted path; `None` where the recipe does not mention it."""
        entry: Entry = self
        for name in path.split("."):
            if not isinstance(entry.value, dict) or name not in entry.value:
                return None
            entry = entry.value[name]
        return entry

    def nearest(self, steps: Iterable[str | int]) -> Entry:
        """The entry that keys and list positions lead to, or the last one on the way that is there."""
        entry: Entry = self
        for step in steps:
            match entry.value, step:
                case dict() as options, str() if step in options:
                    entry = options[step]
                case list() as items, int() if step < len(items):
                    entry = items[step]
                case _:
                    break
        return entry


def tree_of_text(text: str, place_of_line: Callable[[int], Place], problems: Problems) -> Entry | None:
    """Read YAML.

    Args:
        text: One YAML document.
        place_of_line: Names the place of a line, counted from 1.
        problems: Gets what is wrong with the text itself: its syntax, keys given twice, aliases, tags.

    Returns:
        The tree, or `None` where the text is empty or its syntax so wrong that there is no tree.
    """
    try:
        root = yaml.compose(text, Loader=_RecipeLoader)
    except yaml.reader.ReaderError as error:
        place = place_of_line(text.count("\n", 0, error.position) + 1)
        problems.add(place, f"the character U+{error.character:04X} is not allowed in YAML", fix="remove it")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        why = error.problem or error.context
        problems.add(place_of_line(line), "this is not a recipe's YAML", why=why, fix=_fix_of_syntax(text, line))
    except RecursionError:
        problems.add(place_of_line(1), "this is nested too deep to be read", fix=_EXAMPLE)
    else:
        return _entry(root, place_of_line, problems) if root is not None else None
    return None


def tree_of_plain(document: object, place: Place) -> Entry:
    """The tree of a recipe that is already parsed (from a JSON document); every entry has the same place."""
    if isinstance(document, Mapping):
        return Entry({str(key): tree_of_plain(value, place) for key, value in document.items()}, place)
    if isinstance(document, list | tuple):
        return Entry([tree_of_plain(item, place) for item in document], place)
    return Entry(None if document is None else str(document), place)


class _RecipeLoader(yaml.SafeLoader):
    """The part of YAML that a recipe may use: no aliases (one might contain itself) and no tags."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "a recipe has no aliases: write the value out", mark)
        node = super().compose_node(parent, index)
        if node is not None and node.tag not in _TAGS | {_NULL}:
            raise yaml.composer.ComposerError(None, None, f"a recipe has no tags: `{node.tag}`", node.start_mark)
        return node


def _entry(node: yaml.Node, place_of_line: Callable[[int], Place], problems: Problems) -> Entry:
    """The entry of a node, and of all below it."""
    place = place_of_line(node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return Entry([_entry(item, place_of_line, problems) for item in node.value], place)
    if not isinstance(node, yaml.MappingNode):
        return Entry(None if node.tag == _NULL else str(node.value), place)
    options: dict[str, Entry] = {}
    for key, value in node.value:
        place_of_key = place_of_line(key.start_mark.line + 1)
        if not isinstance(key, yaml.ScalarNode):
            problems.add(place_of_key, "an option's name must be a word", fix=_EXAMPLE)
        elif key.value in options:
            first = options[key.value].place.text
            problems.add(place_of_key, f"`{key.value}` is given twice", why=f"first in {first}", fix="keep one of them")
        else:
            # A section's place is its heading, not the first option in it.
            options[key.value] = Entry(_entry(value, place_of_line, problems).value, place_of_key)
    return Entry(options, place)


def _fix_of_syntax(text: str, line: int) -> str:
    lines = text.splitlines()
    typed = lines[line - 1] if line <= len(lines) else ""
    if "\t" in typed[: len(typed) - len(typed.lstrip())]:
        return "indent with blanks; YAML allows no tabs"
    return f"a line is `option: value`, indented under its section; {_EXAMPLE}"
