"""Removing a version and bringing it back: only pointers change; clean-up takes the content later.

Each function looks, and says what would change; `NameFolder.apply` does it.
"""

from __future__ import annotations

from mwactl.errors import NotFoundError, UsageError
from mwactl.registry.change import Change
from mwactl.registry.folder import NameFolder


def plan_removal(folder: NameFolder, version: int, *, force: bool) -> list[Change]:
    """Remove a version, which may be corrupt; with `force` its aliases too, and first: an alias never leads nowhere.

    Raises:
        NotFoundError: It is not there (any more).
        UsageError: Aliases lead to it, and nobody said `force`.
    """
    reference = f"{folder.name}@{version}"
    if not folder.versions.exists(version):
        raise NotFoundError(f"there is no {reference}", fix=f"mwactl registry log {folder.name}")
    aliases = folder.aliases.leading_to(version)
    if aliases and not force:
        other = f"mwactl registry alias {folder.name}@VERSION {next(iter(aliases))}"
        raise UsageError(
            f"{reference} has an alias: {', '.join(aliases)}",
            why="whoever uses the alias would be left without an adapter",
            fix=f"{other}, or mwactl registry rm {reference} --force",
        )
    unset = [
        Change(folder.name, "alias", {"alias": alias, "version": version, "digest": target.digest}, None)
        for alias, target in aliases.items()
    ]
    return [*unset, Change(folder.name, "remove", folder.described(version), None)]


def plan_restoration(folder: NameFolder, version: int) -> Change:
    """Bring a removed version back; whether its content is still there is for the caller to see.

    Raises:
        NotFoundError: It was not removed.
        VerificationError: The tombstone is damaged.
    """
    if not folder.versions.is_removed(version):
        removed = ", ".join(f"{folder.name}@{number}" for number in folder.versions.removed()[-8:])
        raise NotFoundError(
            f"{folder.name}@{version} was not removed",
            why=f"removed are {removed}" if removed else "nothing was removed under this name",
            fix=f"mwactl registry log {folder.name}",
        )
    digest = folder.versions.removed_digest(version)
    return Change(folder.name, "restore", None, {"version": version, "digest": digest, "restored": True})
