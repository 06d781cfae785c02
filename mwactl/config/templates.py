"""The recipes that come with the package."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from mwactl.errors import NotFoundError, UsageError
from mwactl.files import atomic_write
from mwactl.packaged import templates


@dataclass(frozen=True)
class PackagedRecipe:
    """A recipe of the package.

    Args:
        name: What it is called: `coco`.
        text: The file, comments and all.
    """

    name: str
    text: str

    @property
    def description(self) -> str:
        """What the recipe is for."""
        return description_of(self.text)

    def copy_to(self, target: Path, *, replace: bool = False, second_line: str | None = None) -> Path:
        """Write the recipe to a file.

        Args:
            target: The file; or a folder, in which it becomes `NAME.yaml`.
            replace: Replace the file if there is one.
            second_line: A comment to put below the first one.

        Returns:
            The file.

        Raises:
            UsageError: The file is there already, or cannot be written.
        """
        if target.is_dir():
            target /= f"{self.name}.yaml"
        if target.exists() and not replace:
            raise UsageError(
                "the file is already there; it was not changed",
                where=str(target),
                fix=f"mwactl recipes copy {self.name} ANOTHER.yaml, or add --force to replace it",
            )
        first, line_end, rest = self.text.partition("\n")
        added = f"{second_line}\n" if second_line else ""
        atomic_write(target, (first + line_end + added + rest).encode("utf-8"))
        return target


def description_of(text: str) -> str:
    """The first line of a recipe's file, where it is a comment: that says what the recipe is for."""
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def packaged_recipes() -> dict[str, PackagedRecipe]:
    """The recipes of the package by name, in alphabetical order.

    Raises:
        NotFoundError: The installation lacks them.
    """
    files = [file for file in templates().iterdir() if file.name.endswith(".yaml")]
    names = sorted((file.name.removesuffix(".yaml"), file) for file in files)
    return {name: PackagedRecipe(name, file.read_text(encoding="utf-8")) for name, file in names}


def packaged_recipe(name: str) -> PackagedRecipe:
    """A recipe of the package by its name, with or without `.yaml`.

    Raises:
        NotFoundError: There is none of that name.
    """
    recipes = packaged_recipes()
    if known := recipes.get(name.removesuffix(".yaml")):
        return known
    close = difflib.get_close_matches(name, recipes, n=1)
    raise NotFoundError(
        f"no recipe `{name}` comes with mwactl",
        why=f"did you mean {close[0]}?" if close else f"there are: {', '.join(recipes)}",
        fix="mwactl recipes list",
    )
