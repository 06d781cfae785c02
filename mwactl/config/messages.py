"""What a recipe's mistakes are called: plain words, the place, and what to write instead."""

from __future__ import annotations

import difflib

from mwactl.config.extends import EXTENDS
from mwactl.config.options import Option, options, similar_option, written
from mwactl.config.problems import Place, Problems
from mwactl.config.source import Entry

_LONGEST_SHOWN = 60


def note_unknown(path: str, place: Place, problems: Problems) -> Option | None:
    """Note an option that does not exist.

    Args:
        path: The dotted path as written.
        place: Where.
        problems: Gets the note: with the option that was meant, or with all there are.

    Returns:
        The option that was meant, as far as one can tell.
    """
    if difflib.get_close_matches(path, [EXTENDS]):
        _note_extends(path, place, problems)
        return None
    section = path.rpartition(".")[0]
    meant = similar_option(path)
    if meant is None:
        known = ", ".join(option.name for option in options().values() if option.section == section)
        why = f"{f'`{section}`' if section else 'a recipe'} has: {known}" if known else None
        fix = "remove it; `mwactl help config` explains every option"
    elif meant.section == section:
        why, fix = f"did you mean `{meant.name}`? It is {meant.summary()}", f"write `{meant.name}`, or remove it"
    else:
        why, fix = f"did you mean `{meant.path}`? It is {meant.summary()}", _how_to_write(meant)
    problems.add(place, f"there is no option `{path}`", why=why, fix=fix)
    return meant


def _note_extends(written: str, place: Place, problems: Problems) -> None:
    """Note a misspelt `extends`, or one on the command line."""
    fix = f"write `{EXTENDS}: …` at the top of the recipe's file"
    if written == EXTENDS:
        problems.add(place, f"only a file can say what it {EXTENDS}", why="it is no option of a run", fix=fix)
    else:
        why = f"did you mean `{EXTENDS}`? It names the recipe that this one changes"
        problems.add(place, f"there is no option `{written}`", why=why, fix=fix)


def note_dotted(key: str, place: Place, problems: Problems) -> None:
    """Note a key like `train.lr` in a file, where only overrides are written so."""
    option = options().get(key)
    fix = _how_to_write(option) if option else "write each section on a line of its own, its options indented under it"
    problems.add(place, f"`{key}:` is not how a file names an option", why="only overrides have dots", fix=fix)


def note_missing(option: Option, place: Place, problems: Problems) -> None:
    """Note a required option that is not there; for a section, the required options in it."""
    if option.is_section:
        for inner in options().values():
            if inner.section == option.path and inner.required:
                note_missing(inner, place, problems)
    else:
        problems.add(place, f"`{option.path}` is missing", why=option.description, fix=_how_to_write(option))


def note_wrong(option: Option, entry: Entry, problems: Problems, *, item: bool) -> None:
    """Note a value that its option cannot have.

    Args:
        option: The option.
        entry: Its value, or the item of its list that is wrong.
        problems: Gets the note.
        item: The entry is an item of the option's list.
    """
    close = difflib.get_close_matches(entry.value, option.choices, n=1) if isinstance(entry.value, str) else []
    if option.is_section:
        fix = f"write options under `{option.name}:`" + ("" if option.required else ", or remove it")
    elif option.required:
        fix = f"`{option.name}` is: {option.description}"
    else:
        fix = f"the default is `{option.name}: {written(option.default)}`"
    why = ("it has " if item else "it is ") + _shown(entry) + (f"; did you mean `{close[0]}`?" if close else "")
    problems.add(entry.place, f"`{option.path}` must be {option.expected}", why=why, fix=fix)


def _shown(entry: Entry) -> str:
    if entry.value is None or entry.value in ("", []):
        return "empty"
    if isinstance(entry.value, dict):
        return "a section with options of its own"
    text = written(entry.plain())
    return f"`{text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + '…'}`"


def _how_to_write(option: Option) -> str:
    headings = [f" under `{heading}:`" for heading in reversed(option.section.split(".")) if heading]
    return f"write `{option.name}: …`{''.join(headings)} in the file, or {option.path}=… on the command line"
