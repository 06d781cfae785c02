"""Moving aliases and changing tags: each function looks, and says what would change; `NameFolder.apply` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mwactl.errors import NotFoundError, UsageError, VerificationError
from mwactl.registry.aliases import checked_alias
from mwactl.registry.change import Change
from mwactl.registry.folder import NameFolder
from mwactl.registry.tags import check_words


def plan_alias(folder: NameFolder, alias: str, version: int | None) -> Change:
    """Let an alias lead to a version; None takes it away. A damaged alias is set anew, or taken away.

    Raises:
        UsageError: The text cannot be an alias.
        NotFoundError: There is no such version, or no alias to take away.
        VerificationError: The version's pointer is corrupt.
    """
    alias = checked_alias(alias)
    try:
        written = folder.aliases.written(alias)
    except NotFoundError:
        if version is None:
            raise
        old = None
    except VerificationError:
        old = {"alias": alias, "damaged": True}
    else:
        old = {"alias": alias, "version": written.version, "digest": written.digest}
    if version is None:
        return Change(folder.name, "alias", old, None)
    _check_there(folder, version)
    return Change(
        folder.name, "alias", old, {"alias": alias, "version": version, "digest": folder.versions.digest(version)}
    )


def plan_tag(folder: NameFolder, version: int, words: Mapping[str, str], unset: Sequence[str]) -> Change:
    """Put words on a version, and take others away.

    Raises:
        UsageError: A key or a value cannot be kept, or a key is set and unset at once.
        NotFoundError: There is no such version, or it has no such tag to take away.
        VerificationError: The file of the tags is damaged.
    """
    check_words(words)
    if both := sorted(words.keys() & set(unset)):
        raise UsageError(f"the tag {both[0]!r} is set and deleted at once", fix=f"--delete {both[0]}, or set it")
    _check_there(folder, version)
    tags = folder.tags.read().get(version, {})
    for key in unset:
        if key not in tags:
            why = f"it has {', '.join(tags)}" if tags else "it has no tags"
            fix = f"mwactl registry show {folder.name}@{version}"
            raise NotFoundError(f"{folder.name}@{version} has no tag {key!r}", why=why, fix=fix)
    kept = {key: value for key, value in tags.items() if key not in unset}
    described = folder.described(version)
    return Change(folder.name, "tag", described | {"tags": tags}, described | {"tags": {**kept, **words}})


def _check_there(folder: NameFolder, version: int) -> None:
    if not folder.versions.exists(version):
        raise NotFoundError(f"there is no {folder.name}@{version}", fix="mwactl registry list")
