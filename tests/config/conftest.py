"""A recipe with nothing but what is required, and the mistakes of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from mwactl.config import Recipe, parse_recipe
from mwactl.errors import MwactlError, RecipeError

MINIMAL = """\
name: mine
backbone:
  name: clip-vit-b-32
data:
  name: pictures
"""

ProblemsOf = Callable[..., list[MwactlError]]
Parsed = Callable[..., Recipe]


@pytest.fixture
def minimal() -> str:
    """Five lines; `method:` and `train:` can follow."""
    return MINIMAL


@pytest.fixture
def parsed() -> Parsed:
    """The recipe of the minimal one and some more lines, with overrides."""

    def parse(more: str = "", overrides: Sequence[str] = ()) -> Recipe:
        return parse_recipe(MINIMAL + more, "r.yaml", overrides).recipe

    return parse


@pytest.fixture
def problems_of() -> ProblemsOf:
    """Every mistake of a recipe's text (which must have some)."""

    def problems(text: str, overrides: Sequence[str] = ()) -> list[MwactlError]:
        with pytest.raises(RecipeError) as caught:
            parse_recipe(text, "r.yaml", overrides)
        return caught.value.problems

    return problems
