"""From a reference to one version, or to an error that says what there is instead."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import NoReturn

from mwactl.errors import NotFoundError, UsageError, VerificationError
from mwactl.registry.folder import NameFolder
from mwactl.registry.numbered import NumberedPointers
from mwactl.registry.reference import Reference

_LIST = "mwactl registry list"


class RemovedMeanwhileError(NotFoundError):
    """Somebody removed the version between the moment it was found and the moment it was read."""


def find(folder: NameFolder, reference: Reference, *, names: Callable[[], list[str]]) -> int:
    """The number that a reference means; that version may turn out to be corrupt.

    Args:
        folder: The folder of the reference's name.
        reference: What to find.
        names: Gives all names; asked only where the reference fits none, for its neighbours.

    Raises:
        NotFoundError: There is no such name, version or alias.
        UsageError: A digest prefix fits two contents.
        VerificationError: The alias is damaged.
    """
    if reference.version is not None and folder.versions.exists(reference.version):
        return reference.version
    numbers = folder.versions.numbers()
    if not numbers:
        _fail_name(folder, names)
    if reference.alias is not None:
        return folder.aliases.target(reference.alias).version
    if reference.version is not None:
        _fail_version(folder, numbers, reference)
    if reference.digest_prefix is not None:
        return _with_digest(folder.versions, reference, reference.digest_prefix)
    return numbers[-1]


def find_newest(folders: Iterable[NameFolder]) -> tuple[NameFolder, int]:
    """The folder and number of the version that was published last.

    Raises:
        NotFoundError: There is no version at all.
    """
    newest = [(folder, numbers[-1]) for folder in folders if (numbers := folder.versions.numbers())]
    if not newest:
        raise NotFoundError(
            "the registry is empty", fix="mwactl inject --backbone NAME   (mwactl backbones list shows them)"
        )
    return max(newest, key=lambda found: found[0].created(**found[0].described(found[1])))


def digest_of(folder: NameFolder, version: int) -> str:
    """The manifest's digest of a version that was there a moment ago.

    Raises:
        RemovedMeanwhileError: It no longer is.
        VerificationError: Its pointer is corrupt.
    """
    try:
        return folder.versions.digest(version)
    except VerificationError:
        if folder.versions.is_removed(version):
            fix = f"mwactl registry rm --undo {folder.name}@{version}"
            raise RemovedMeanwhileError(f"{folder.name}@{version} was removed", fix=fix) from None
        return folder.versions.digest(version)  # it may have been removed and restored just now; else it fails again


def _fail_version(folder: NameFolder, numbers: list[int], reference: Reference) -> NoReturn:
    if reference.version is not None and folder.versions.is_removed(reference.version):
        fix = f"mwactl registry rm --undo {reference}"
        raise NotFoundError(f"{reference} was removed", why=f"mwactl registry log {folder.name} says when", fix=fix)
    shown = ", ".join(map(str, numbers[-8:]))
    why = f"its versions are {shown}" if len(numbers) <= 8 else f"its newest versions are {shown}"
    raise NotFoundError(f"there is no {reference}", why=why, fix=_LIST)


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


def _fail_name(folder: NameFolder, names: Callable[[], list[str]]) -> NoReturn:
    if removed := folder.versions.removed():
        fix = f"mwactl registry rm --undo {folder.name}@{removed[-1]}"
        raise NotFoundError(f"every version of {folder.name!r} was removed", fix=fix)
    known = names()
    close = difflib.get_close_matches(folder.name, known, n=3)
    why = f"did you mean {' or '.join(close)}?" if close else None if known else "the registry is empty"
    raise NotFoundError(f"there is no {folder.name!r} in the registry", why=why, fix=_LIST)
