"""What the shell offers when a reference is being typed: names, then versions and aliases of one name.

A key was pressed, so this has to be quick and must neither print nor fail: it lists directories and reads no content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwactl.registry import Registry

_MOST_VERSIONS = 20


def complete_reference(incomplete: str) -> list[str]:
    """References that begin with what was typed; none where anything goes wrong."""
    try:
        from mwactl.registry import Registry

        return _references(Registry.default(), incomplete)
    except Exception:
        return []


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
