"""What is kept under one name: `refs/NAME/` with its versions and their history."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mwactl.errors import ResourceError
from mwactl.registry.history import History, iso_time
from mwactl.registry.numbered import NumberedPointers


class NameFolder:
    """The versions of one name.

    Args:
        root: The registry.
        name: The name; nothing of it need exist.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.versions = NumberedPointers(root, root / "refs" / name / "versions")
        self.history = History(root / "refs" / name / "log.jsonl")

    def add(self, digest: str, verb: str) -> int:
        """Make a manifest the next version, unless it is the newest already; return its number.

        Raises:
            ResourceError: The version is there, but the history could not be written.
        """
        numbers = self.versions.numbers()
        newest = {"version": numbers[-1], "digest": self.versions.intact_digest(numbers[-1], "")} if numbers else None
        if newest is not None and newest["digest"] == digest:
            return numbers[-1]
        version = self.versions.add(digest)
        self.record(verb, self.versions.time_ns(version), old=newest, new={"version": version, "digest": digest})
        return version

    def record(self, verb: str, time_ns: int, *, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> None:
        """Add a line to the history; `new` has the number of a `version`.

        Raises:
            ResourceError: It could not be written; what it is about stays.
        """
        try:
            self.history.append(verb, time=iso_time(time_ns), old=old, new=new)
        except OSError as error:
            reference = f"{self.name}@{new['version']}"
            raise ResourceError(
                f"{reference} is in the registry, but the history has no line about this {verb}",
                where=str(self.history.path),
                why=error.strerror,
                fix=f"nothing has to be repeated: mwactl registry show {reference}",
            ) from error

    def created(self, version: int) -> str:
        """When a version was published, as `iso_time` writes it.

        The log says so, and survives a copy that resets time stamps; the file does where a kill cost the log its line.
        """
        published = (version, self.versions.intact_digest(version, ""))
        return self._published_at.get(published) or iso_time(self.versions.time_ns(version))

    @cached_property
    def _published_at(self) -> dict[tuple[int, str], str]:
        made = [(record["new"], record["time"]) for record in self.history.records() if "problem" not in record]
        return {(new["version"], new["digest"]): time for new, time in made if new.keys() == {"version", "digest"}}
