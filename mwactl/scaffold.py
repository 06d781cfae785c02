"""A plugin of one's own: the package's scaffold, written to a folder under a name of its own. No torch."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from mwactl.backbone import all_specs, plugins
from mwactl.errors import UsageError
from mwactl.files import atomic_write, naming_write_errors, sync_directory
from mwactl.packaged import templates

#: The name that the scaffold's files have for what they make, as a distribution and as a package.
EXAMPLE = "my-encoder"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 48


def scaffold_files() -> dict[PurePosixPath, str]:
    """The scaffold's files as they are packaged, by their path in it."""
    root = templates() / "backbone"
    return {path: file.read_text(encoding="utf-8") for path, file in sorted(_files(root, PurePosixPath()))}


def write_scaffold(name: str, into: Path) -> list[Path]:
    """Write a plugin package that works, to be changed into one's own.

    Args:
        name: Of the distribution, the family and its backbone: `my-encoder`; the package is then `my_encoder`.
        into: The folder in which a folder of this name is made, complete or not at all.

    Returns:
        The files, in alphabetical order.

    Raises:
        UsageError: The name cannot be used, or is taken; the folder is there already, or cannot be made.
        ResourceError: The disk is full, or not this user's to write to.
    """
    _check(name)
    folder = into / name
    if folder.exists() or folder.is_symlink():
        raise UsageError(
            "the folder is already there; nothing was changed",
            where=str(folder),
            fix="another name, or another place: mwactl backbones new NAME --into DIR",
        )
    files = {Path(_renamed(str(path), name)): _renamed(text, name) for path, text in scaffold_files().items()}
    with naming_write_errors(folder):
        into.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=into))
        try:
            whole = temporary / name  # one level down, where the umask decides who may read it
            for path, text in files.items():
                atomic_write(whole / path, text.encode("utf-8"))
            whole.rename(folder)
            sync_directory(into)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return sorted(folder / path for path in files)


def _check(name: str) -> None:
    """Refuse a name of which no plugin can be made.

    Raises:
        UsageError: It is no name, or something else has it.
    """
    package = name.replace("-", "_")
    why = None
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        why = f"a name is lower-case letters and digits, single `-` between them, at most {_LONGEST}; a letter is first"
    elif keyword.iskeyword(package):
        why = f"`{package}` is a word of Python"
    elif name in plugins() or any(spec.name == name for spec in all_specs()):
        why = "a backbone of this name is installed"
    elif package == "tests":
        why = "the plugin's tests lie in a folder of this name"
    elif importlib.util.find_spec(package) is not None:
        why = f"a package `{package}` is installed"
    if why is not None:
        raise UsageError(
            f"a plugin cannot be called {name!r}", why=why, fix=f"mwactl backbones new {_suggestion(package)}"
        )


def _suggestion(package: str) -> str:
    """A name near to one that cannot be used."""
    words = [word for word in re.split(r"[^a-z0-9]+", package.lower()) if word]
    near = "-".join(["my", *(word for word in words if word != "my")])[:_LONGEST].rstrip("-")
    return near if words else EXAMPLE


def _renamed(text: str, name: str) -> str:
    package, example = name.replace("-", "_"), EXAMPLE.replace("-", "_")
    return text.replace(EXAMPLE, name).replace(example, package)


def _files(folder: Traversable, inside: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__" and not entry.name.startswith("."):
            yield from _files(entry, inside / entry.name)
        elif entry.name.endswith((".py", ".toml")):
            yield inside / entry.name, entry
