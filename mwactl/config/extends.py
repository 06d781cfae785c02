"""`extends: coco.yaml`: a recipe says only where it differs from another one.

The other recipe is looked up as on the command line: a file, from the folder of the recipe that names it, else one of
the package. Sections are merged, option by option; anything else, a list too, is replaced whole.
"""

from __future__ import annotations

from mwactl.config.problems import Place, Problems
from mwactl.config.source import Entry, tree_of_text
from mwactl.config.templates import packaged_recipes
from mwactl.config.text import RecipeText
from mwactl.errors import NotFoundError

EXTENDS = "extends"
"""The key. It is no option: what counts is the recipe that comes out."""
LONGEST_CHAIN = 8
"""Recipes in a chain, the first one too: a longer one can no longer be read by anybody."""


def read_chain(recipe: RecipeText, problems: Problems) -> tuple[list[tuple[RecipeText, Entry]], bool]:
    """Read a recipe, the one that it extends, the one that this extends, and so on.

    Args:
        recipe: The first one.
        problems: Gets what is wrong with the text of each, and with what they extend.

    Returns:
        The recipes as far as they could be read, each with its tree (without `extends`), and whether that is all.
    """
    chain: list[tuple[RecipeText, Entry]] = []
    following: RecipeText | None = recipe
    while following is not None:
        tree = _read(following, 1 + len(chain), problems)
        if tree is None:
            return chain, False
        chain.append((following, tree))
        named = tree.value.pop(EXTENDS, None) if isinstance(tree.value, dict) else None
        if named is None:
            return chain, True
        following = _extended(named, [text for text, _ in chain], problems)
    return chain, False


def merged(base: Entry, over: Entry) -> Entry:
    """One tree laid over another; every value keeps the place where it was written."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    both = base.value | over.value
    shared = base.value.keys() & over.value.keys()
    both |= {name: merged(base.value[name], over.value[name]) for name in shared}
    return Entry(both, over.place)


def _read(recipe: RecipeText, layer: int, problems: Problems) -> Entry | None:
    """The tree of one recipe's text; None where it is no recipe's, which is then noted."""
    place = Place.in_file(recipe.source, layer=layer)
    before = len(problems)
    tree = tree_of_text(recipe.text, lambda line: Place.in_file(recipe.source, line, layer=layer), problems)
    if tree is None and len(problems) > before:
        return None
    if tree is None or not isinstance(tree.value, dict):
        why = "it is empty" if tree is None or tree.value is None else "it is a list or a single value"
        problems.add(place, "a recipe must be `option: value` lines", why=why, fix="mwactl recipes show coco")
        return None
    tree.place = place
    return tree


def _extended(named: Entry, chain: list[RecipeText], problems: Problems) -> RecipeText | None:
    """The recipe that the last one of a chain extends; None where it cannot, which is then noted."""
    if not isinstance(named.value, str) or not named.value:
        why = "a recipe extends one other; what they share belongs in a third" if named.value else "it is empty"
        problems.add(named.place, f"`{EXTENDS}` must name one recipe", why=why, fix=f"for example `{EXTENDS}: coco`")
        return None
    try:
        found = chain[-1].find(named.value)
    except NotFoundError as error:
        fix = "a path starts at the folder of this file; `mwactl recipes list` names the recipes of the package"
        problems.add(named.place, f"`{EXTENDS}`: {error.what}", why=error.why, fix=fix)
        return None
    if any(found.is_same(earlier) for earlier in chain):
        circle = " → ".join(text.source for text in (*chain, found))
        short = named.value.removesuffix(".yaml")
        meant = short != named.value and short in packaged_recipes()
        fix = f"`{EXTENDS}: {short}` is the recipe of the package" if meant else f"take one `{EXTENDS}` out"
        problems.add(named.place, "a recipe extends itself", why=circle, fix=fix)
        return None
    if len(chain) >= LONGEST_CHAIN:
        names = " → ".join(text.source for text in (chain[0], chain[1]))
        why = f"{names} → … is more than {LONGEST_CHAIN} recipes"
        problems.add(named.place, "too long a chain of recipes", why=why, fix="write some of them out")
        return None
    return found
