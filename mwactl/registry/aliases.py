"""Aliases: words that lead to a version of a name and move from one to the next (`coco:prod`).

An alias holds the version and the digest that it had when the alias was set. Both have to agree with the version's
pointer, so a flipped bit in either file is an error and never other content.
"""

from __future__ import annotations

import difflib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mwactl.errors import MwactlError, NotFoundError, UsageError, VerificationError
from mwactl.files import sync_directory
from mwactl.registry.fault import REPAIR
from mwactl.registry.numbered import NumberedPointers
from mwactl.registry.reference import checked_name
from mwactl.registry.staging import make_directory, staged

_TARGET = re.compile(r"([1-9][0-9]{0,8}) ([0-9a-f]{64})\n")


class Target(NamedTuple):
    """Where an alias leads."""

    version: int
    digest: str


def checked_alias(text: str) -> str:
    """An alias in lower case.

    Raises:
        UsageError: The text cannot be an alias.
    """
    alias = checked_name(text)
    if alias == "latest":
        raise UsageError(
            "`latest` cannot be an alias",
            why="an alias stays where it is put, and the newest version is what the plain name means",
            fix="choose a word such as prod, or leave the alias out",
        )
    return alias


class Aliases:
    """The aliases of one name.

    Args:
        root: The registry, for staging.
        directory: Where they are, a file each; it need not exist.
        versions: The versions that they lead to.
    """

    def __init__(self, root: Path, directory: Path, versions: NumberedPointers) -> None:
        self._root = root
        self._directory = directory
        self._versions = versions

    def names(self) -> list[str]:
        """The aliases there are, sorted; whether they are intact is not looked at."""
        try:
            with os.scandir(self._directory) as found:
                return sorted(item.name for item in found if _is_alias(item.name))
        except FileNotFoundError:
            return []

    def target(self, alias: str) -> Target:
        """Where an alias leads.

        Raises:
            NotFoundError: There is no such alias, or its version was removed.
            VerificationError: It is damaged, or the version's pointer has another digest.
        """
        target = self.written(alias)
        while (problem := self._disagreement(alias, target)) is not None:
            # A writer moves the alias first and removes the version then: what was read may have been overtaken.
            earlier, target = target, self.written(alias)
            if target == earlier:
                raise problem
        return target

    def written(self, alias: str) -> Target:
        """What an alias says, whether or not its version agrees; errors as in `target`."""
        path, shown = self._directory / alias, self._shown(alias)
        try:
            text = path.read_bytes().decode("ascii", "replace")
        except FileNotFoundError:
            raise self._not_found(alias) from None
        except OSError as error:
            what, fix = f"the alias {shown} cannot be read", f"make the file readable, or: {REPAIR}"
            raise VerificationError(what, where=str(path), why=error.strerror, fix=fix) from error
        match = _TARGET.fullmatch(text)
        if match is None:
            why = f"expected a version, a SHA-256 and a line end, found {text[:80]!r}"
            raise VerificationError(f"the alias {shown} is corrupt", where=str(path), why=why, fix=self._again(alias))
        return Target(int(match[1]), match[2])

    def leading_to(self, version: int) -> dict[str, Target]:
        """The aliases that say this version."""
        found = {}
        for alias in self.names():
            with suppress(VerificationError, NotFoundError):  # damaged: it leads nowhere
                if (target := self.written(alias)).version == version:
                    found[alias] = target
        return found

    def targets(self) -> tuple[dict[str, Target], list[str]]:
        """Where all the aliases lead, and what is wrong with those that cannot be followed, a line each."""
        intact, problems = {}, []
        for alias in self.names():
            try:
                intact[alias] = self.target(alias)
            except MwactlError as error:
                if (self._directory / alias).exists():  # else it was deleted just now
                    problems.append("; ".join(filter(None, (error.what, error.why))))
        return intact, problems

    def point(self, alias: str, target: Target) -> None:
        """Let an alias lead to a version, in one step."""
        make_directory(self._directory)
        with staged(self._root, f"{target.version} {target.digest}\n".encode("ascii")) as fresh:
            fresh.path.replace(self._directory / alias)
            sync_directory(self._directory)

    def delete(self, alias: str) -> None:
        """Take an alias away, also a damaged one."""
        (self._directory / alias).unlink(missing_ok=True)
        sync_directory(self._directory)

    def _disagreement(self, alias: str, target: Target) -> NotFoundError | VerificationError | None:
        """Why an alias cannot be followed to the version that it says, or None."""
        if self._versions.is_removed(target.version):
            return NotFoundError(
                f"the version that {self._shown(alias)} leads to was removed",
                why=f"it was {target.version}",
                fix=self._again(alias),
            )
        found = self._versions.intact_digest(target.version, "?")
        if found == target.digest:
            return None
        return VerificationError(
            f"the alias {self._shown(alias)} and version {target.version} contradict each other",
            where=str(self._directory / alias),
            why=f"the alias expects sha256:{target.digest[:12]}…, the version is sha256:{found[:12]}…",
            fix=self._again(alias),
        )

    def _not_found(self, alias: str) -> NotFoundError:
        known = self.names()
        close = difflib.get_close_matches(alias, known, n=3)
        why = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}" if known else None
        return NotFoundError(f"there is no alias {self._shown(alias)}", why=why, fix=self._again(alias))

    def _shown(self, alias: str) -> str:
        return f"{self._directory.parent.name}:{alias}"

    def _again(self, alias: str) -> str:
        return f"mwactl registry alias {self._directory.parent.name}@VERSION {alias}   (mwactl registry list)"


def _is_alias(text: str) -> bool:
    try:
        return checked_name(text) == text
    except UsageError:
        return False
