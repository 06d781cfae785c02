"""A recipe's tree becomes a `Recipe`, or a list of mistakes: every one, and each option at most once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from mwactl.config.conflicts import conflicts
from mwactl.config.messages import note_dotted, note_missing, note_unknown, note_wrong
from mwactl.config.options import options, recipe_type
from mwactl.config.problems import Problems
from mwactl.config.recipe import Recipe
from mwactl.config.source import Entry


def validate(tree: Entry, problems: Problems, *, complete: bool = True) -> Recipe:
    """Check every option, and all of them together.

    Args:
        tree: The recipe as written.
        problems: The mistakes found so far; the ones found here join them.
        complete: The tree is all there is. Of a part nobody can say what is missing, or does not go together.

    Returns:
        The recipe.

    Raises:
        RecipeError: There is at least one mistake, here or earlier.
    """
    complaints = _complaints(tree)
    _note_all(complaints, problems, complete=complete)
    if not complete:
        problems.raise_if_any()
    # The good options are looked at together even where others are wrong, so that one run shows every mistake.
    recipe = recipe_type().validate_python(_good_part(tree, complaints))
    for conflict in conflicts(recipe):
        if complaints.keys().isdisjoint(conflict.options):
            # Each of the options may be fine in its own file: the one laid over the other makes the conflict.
            places = [entry.place for path in conflict.options if (entry := tree.find(path))]
            place = min(places, key=lambda place: place.layer, default=tree.place)
            problems.add(place, conflict.what, why=conflict.why, fix=conflict.fix)
    problems.raise_if_any()
    return recipe


@dataclass(frozen=True)
class _Complaint:
    """What pydantic has to say about one option.

    Args:
        missing: The option is required and not there.
        key: The last key of the option as written; it may have a dot in it.
        entry: The option's entry, or the wrong item of its list, or the section that lacks it.
        item: It is an item.
    """

    missing: bool
    key: str
    entry: Entry
    item: bool


def _complaints(tree: Entry) -> dict[str, _Complaint]:
    """Every unknown, missing or wrong option, by its dotted path."""
    try:
        recipe_type().validate_python(tree.plain())
    except ValidationError as error:
        found: dict[str, _Complaint] = {}
        for detail in error.errors(include_url=False, include_context=False):
            keys, inside = _split(detail["loc"])
            items = tuple(takewhile(lambda step: isinstance(step, int), inside))
            entry = tree.nearest((*keys, *items))
            missing = detail["type"] == "missing" and not items  # A list can lack an item: that is a wrong value.
            item = entry is not tree.nearest(keys)
            complaint = _Complaint(missing, str(keys[-1]), entry, item)
            # A union complains once for each of its members; the first complaint stands for all.
            found.setdefault(".".join(map(str, keys)), complaint)
        return found
    return {}


def _split(location: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], tuple[str | int, ...]]:
    """A pydantic location as the option's keys, and the way inside its value (positions, members of a union)."""
    for length in range(1, len(location)):
        option = options().get(".".join(map(str, location[:length])))
        if option is None or not option.is_section:
            return location[:length], location[length:]
    return location, ()


def _note_all(complaints: Mapping[str, _Complaint], problems: Problems, *, complete: bool) -> None:
    """Put every complaint in words."""
    meant: set[str] = set()
    for path, complaint in complaints.items():
        if "." in complaint.key:
            note_dotted(complaint.key, complaint.entry.place, problems)
        elif path not in options():
            similar = note_unknown(path, complaint.entry.place, problems)
            meant.update([similar.path] if similar else [])
    for path, complaint in complaints.items():
        option = options().get(path)
        if option is None or "." in complaint.key:
            continue
        if not complaint.missing:
            note_wrong(option, complaint.entry, problems, item=complaint.item)
        elif complete and path not in meant:  # A misspelt option is one mistake, not an unknown and a missing one.
            note_missing(option, complaint.entry.place, problems)


def _good_part(tree: Entry, wrong: Mapping[str, _Complaint]) -> dict[str, Any]:
    """The recipe with the options that are right; a required one that is not gets a stand-in that is never used."""
    document: dict[str, Any] = {}
    for option in options().values():
        if option.is_section:
            continue
        section = document
        for heading in option.section.split(".") if option.section else ():
            section = section.setdefault(heading, {})
        entry = tree.find(option.path)
        if entry and option.path not in wrong:
            section[option.name] = entry.plain()
        elif option.required:
            section[option.name] = "unknown"
    return document
