"""A recipe's text, and where it comes from: a file, or the package."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from mwactl.config.templates import packaged_recipes
from mwactl.errors import NotFoundError, RecipeError, UsageError


@dataclass(frozen=True)
class RecipeText:
    """What was written, not yet read.

    Args:
        text: The YAML.
        source: What messages call it: `SOURCE line 12`. The file's path, or `packaged recipe NAME`.
        packaged: It came with the package; the user has not written it.
    """

    text: str
    source: str
    packaged: bool = False

    def find(self, name_or_path: str) -> RecipeText:
        """The recipe that this one calls `name_or_path`: a file beside it, else one of the package.

        Raises:
            NotFoundError: It is neither.
            RecipeError: The file is not UTF-8 text.
            UsageError: The file cannot be read.
        """
        return find_recipe(name_or_path, None if self.packaged else Path(self.source).parent)

    def is_same(self, other: RecipeText) -> bool:
        """Whether both came from one place."""
        if self.packaged or other.packaged:
            return (self.packaged, self.source) == (other.packaged, other.source)
        return Path(self.source).resolve() == Path(other.source).resolve()


def find_recipe(name_or_path: str, folder: Path | None = Path()) -> RecipeText:
    """The text of a recipe: a file; or, where no such file is, a packaged recipe, with or without `.yaml`.

    Args:
        name_or_path: What was typed.
        folder: Where a relative path starts; None: no file is looked for.

    Raises:
        NotFoundError: It is neither a file nor a packaged recipe.
        RecipeError: The file is not UTF-8 text.
        UsageError: The file cannot be read.
    """
    path = None if folder is None else folder / name_or_path
    if path is not None and _is_file(path):
        return RecipeText(_read(path), str(path))
    name = name_or_path.removesuffix(".yaml")
    packaged = packaged_recipes()
    if name in packaged:
        return RecipeText(packaged[name].text, f"packaged recipe {name}", packaged=True)
    raise _not_found(name_or_path, path, list(packaged))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise UsageError("the recipe cannot be read", where=str(path), why=error.strerror) from error


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


def _not_found(typed: str, path: Path | None, packaged: list[str]) -> NotFoundError:
    beside = sorted(path.parent.glob("*.yaml")) if path is not None and path.name else []
    names = {str(Path(typed).with_name(file.name)): file for file in beside} if Path(typed).name else {}
    close = difflib.get_close_matches(typed, [*packaged, *names], n=3)
    why = "there is no file of that name" + ("" if Path(typed).name != typed else ", and no packaged recipe")
    is_folder = path is not None and path.is_dir()
    return NotFoundError(
        f"`{typed}` is a folder, not a recipe" if is_folder else f"there is no recipe `{typed}`",
        why=why + (f"; did you mean {' or '.join(close)}?" if close else ""),
        fix="mwactl recipes list",
    )
