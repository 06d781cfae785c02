"""What the shell offers while something is being typed: references, data sets, recipes, backbones, runs, options.

A key was pressed, so this has to be quick and must neither print nor fail: nothing here imports torch or reads content,
and where anything goes wrong nothing is offered (and the shell offers files).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwactl.config import Option
    from mwactl.registry import Registry

_MOST_VERSIONS = 20

Completion = Callable[[str], list[str]]


def _silent(complete: Completion) -> Completion:
    """The same, but offering nothing where it fails."""

    @wraps(complete)
    def quietly(incomplete: str) -> list[str]:
        with suppress(Exception):
            return complete(incomplete)
        return []

    return quietly


@_silent
def complete_reference(incomplete: str) -> list[str]:
    """References of the registry: names, then versions and aliases of one name."""
    from mwactl.registry import Registry

    return _references(Registry.default(), incomplete)


@_silent
def complete_data(incomplete: str) -> list[str]:
    """Data sets of the catalogue; read as JSON, because the catalogue's own code imports numpy."""
    import json

    from mwactl.home import catalogue_path

    return _beginning(incomplete, sorted(json.loads(catalogue_path().read_bytes())["datasets"]))


@_silent
def complete_recipe(incomplete: str) -> list[str]:
    """Recipes of the package, and YAML files in the folder that was typed so far."""
    from mwactl.packaged import templates

    packaged = sorted(file.name.removesuffix(".yaml") for file in templates().iterdir() if file.name.endswith(".yaml"))
    folder = incomplete[: incomplete.rfind("/") + 1]
    files = sorted(folder + file.name for file in Path(folder).glob("*.yaml"))
    return _beginning(incomplete, packaged + files)


@_silent
def complete_backbone(incomplete: str) -> list[str]:
    """Backbones that have a short name."""
    from mwactl.backbone import all_specs

    return _beginning(incomplete, [spec.name for spec in all_specs()])


@_silent
def complete_run(incomplete: str) -> list[str]:
    """Runs, by the names of their folders."""
    from mwactl.home import runs_path

    return _beginning(incomplete, sorted(path.name for path in runs_path().iterdir() if path.name[0] != "."))


@_silent
def complete_override(incomplete: str) -> list[str]:
    """Options of a recipe with their defaults; of one whose name is whole, each word that it may be."""
    from mwactl.config.options import options

    chosen = options().get(incomplete.partition("=")[0])
    if chosen is not None and not chosen.is_section:
        return _beginning(incomplete, [f"{chosen.path}={value}" for value in chosen.choices or [_default(chosen)]])
    leaves = (option for option in options().values() if not option.is_section)
    return _beginning(incomplete, [f"{option.path}={_default(option)}" for option in leaves])


def _default(option: Option) -> str:
    from mwactl.config.options import written

    return "" if option.required else written(option.default)


def _beginning(typed: str, candidates: list[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate.startswith(typed)]


def _references(registry: Registry, incomplete: str) -> list[str]:
    typed = incomplete.lower()
    names = [name for name in registry.names() if name.startswith(typed)]
    if len(names) > 1 and typed not in names:
        return names
    # One name is left. It may be followed by `@` or `:`, at which some shells cut the word: whole references are
    # offered as soon as the name is clear.
    name = names[0] if len(names) == 1 else typed.partition("@")[0].partition(":")[0]
    newest = registry.versions(name)[::-1]
    numbered = [f"{name}@{version}" for version in newest]
    whole = [f"{name}:{alias}" for alias in registry.aliases(name)] + numbered
    return names + [reference for reference in whole if reference.startswith(typed)][:_MOST_VERSIONS]
