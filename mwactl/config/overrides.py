"""`option=value` arguments, laid over a recipe's file."""

from __future__ import annotations

from mwactl.config.messages import note_unknown
from mwactl.config.options import options
from mwactl.config.problems import Place, Problems
from mwactl.config.source import Entry, tree_of_text


def apply_override(recipe: Entry, override: str, problems: Problems) -> None:
    """Put the value of an `a.b.c=value` argument into a recipe's tree, as if its file said so.

    Args:
        recipe: The tree to change.
        override: The argument; what follows the first `=` is the value.
        problems: Gets what is wrong with the argument. Whether the value is a good one is the validation's to say.
    """
    place = Place.in_override(override)
    path, sign, text = override.partition("=")
    option = options().get(path)
    if not sign or not path:
        why = "there is nothing before the `=`" if sign else "there is no `=` in it"
        example = f"{path}=value" if option else "train.epochs=5"
        problems.add(place, "an override is `option=value`", why=why, fix=f"for example {example}")
        return
    if option is None:
        note_unknown(path, place, problems)
        return
    if option.is_section:
        inside = next(inner.path for inner in options().values() if inner.section == path and not inner.is_section)
        problems.add(place, f"`{path}` is a section", fix=f"override one option in it, for example {inside}=value")
        return
    if option.is_text:
        # Text is taken as it stands: the shell has already removed the quotes.
        value = Entry(None if option.nullable and text in ("null", "~") else text, place)
    else:
        value = tree_of_text(text, lambda _: place, problems) or Entry(None, place)
    _put(recipe, path, value)


def _put(recipe: Entry, path: str, value: Entry) -> None:
    section = recipe
    *sections, name = path.split(".")
    for heading in sections:
        if not isinstance(section.value, dict):
            return  # The file has something else where a section belongs, and the validation says so.
        section = section.value.setdefault(heading, Entry({}, value.place))
    if isinstance(section.value, dict):
        section.value[name] = value
