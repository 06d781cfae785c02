"""From a reference to one version, or to an error that says what there is instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import NoReturn

from mwactl.errors import NotFoundError, UsageError
from mwactl.registry.folder import NameFolder
from mwactl.registry.numbered import NumberedPointers
from mwactl.registry.reference import Reference

_LIST = "mwactl registry list"


def find(names: Mapping[str, NameFolder], reference: Reference | None) -> tuple[NameFolder, int]:
    """The name's folder and the number that a reference means; the version may turn out to be corrupt.

    Args:
        names: The folder of every name.
        reference: None means the newest version of all names.

    Raises:
        NotFoundError: There is no such name or version.
        UsageError: A digest prefix fits two contents.
    """
    newest = {name: numbers[-1] for name, folder in names.items() if (numbers := folder.versions.numbers())}
    if reference is None:
        if not newest:
            raise NotFoundError(
                "the registry is empty", fix="mwactl inject --backbone NAME   (mwactl backbones list shows them)"
            )
        name = max(newest, key=lambda name: names[name].created(newest[name]))
        return names[name], newest[name]
    if reference.name not in newest:
        _fail_name(reference.name, list(newest))
    folder = names[reference.name]
    if reference.alias is not None:
        raise NotFoundError(
            f"there is no alias {reference.alias!r}",
            why="aliases do not exist in this version of mwactl yet",
            fix=_LIST,
        )
    if reference.version is not None:
        return folder, _numbered(folder.versions, reference)
    if reference.digest_prefix is not None:
        return folder, _with_digest(folder.versions, reference, reference.digest_prefix)
    return folder, newest[reference.name]


def _numbered(versions: NumberedPointers, reference: Reference) -> int:
    numbers = versions.numbers()
    if reference.version not in numbers:
        shown = ", ".join(map(str, numbers[-8:]))
        why = f"its versions are {shown}" if len(numbers) <= 8 else f"its newest versions are {shown}"
        raise NotFoundError(f"there is no {reference}", why=why, fix=_LIST)
    return reference.version


def _with_digest(versions: NumberedPointers, reference: Reference, prefix: str) -> int:
    found = {
        number: digest
        for number in versions.numbers()
        if (digest := versions.intact_digest(number, "")).startswith(prefix)
    }
    if not found:
        raise NotFoundError(f"there is no {reference}", why="no version of that name has this digest", fix=_LIST)
    if len(set(found.values())) > 1:
        numbers = " and ".join(f"{reference.name}@{number}" for number in sorted(found))
        raise UsageError(f"{reference} is ambiguous", why=f"it fits {numbers}", fix="type more digits of the digest")
    return max(found)


def _fail_name(name: str, known: list[str]) -> NoReturn:
    close = difflib.get_close_matches(name, known, n=3)
    why = f"did you mean {' or '.join(close)}?" if close else None if known else "the registry is empty"
    raise NotFoundError(f"there is no {name!r} in the registry", why=why, fix=_LIST)
