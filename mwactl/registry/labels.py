"""What people have put on the versions of one name, for lists: aliases, tags, and what of it is damaged."""

from __future__ import annotations

from dataclasses import dataclass, field

from mwactl.errors import VerificationError
from mwactl.registry.folder import NameFolder
from mwactl.registry.tags import Words


@dataclass(frozen=True)
class Labels:
    """Aliases and tags by version; `problems` names each damaged file and hides nothing else."""

    aliases: dict[int, list[str]] = field(default_factory=dict)
    tags: dict[int, Words] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def labels(folder: NameFolder) -> Labels:
    """The labels of a name's versions; nothing is raised for damaged ones."""
    targets, problems = folder.aliases.targets()
    aliases: dict[int, list[str]] = {}
    for alias, target in targets.items():
        aliases.setdefault(target.version, []).append(alias)
    try:
        tags = folder.tags.read()
    except VerificationError as error:
        tags = {}
        problems.append(f"{error.what} ({error.where}); {error.why}; fix: {error.fix}")
    return Labels(aliases, tags, problems)
