"""What is kept under one name: `refs/NAME/` with its versions, their aliases and tags, and the history."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mwactl.errors import ResourceError
from mwactl.registry.aliases import Aliases, Target
from mwactl.registry.change import Change
from mwactl.registry.history import History, iso_time
from mwactl.registry.numbered import NumberedPointers
from mwactl.registry.tags import Tags


class NameFolder:
    """The versions of one name.

    Args:
        root: The registry.
        name: The name; nothing of it need exist.
    """

    def __init__(self, root: Path, name: str) -> None:
        directory = root / "refs" / name
        self.name = name
        self.versions = NumberedPointers(root, directory / "versions")
        self.aliases = Aliases(root, directory / "aliases", self.versions)
        self.tags = Tags(root, directory / "tags.json")
        self.history = History(directory / "log.jsonl")

    def add(self, digest: str, verb: str) -> int:
        """Make a manifest the next version, unless it is the newest already; return its number.

        Raises:
            ResourceError: The version is there, but the history could not be written.
        """
        last, taken = self.versions.ends()
        newest = self.described(last) if last else None
        if newest is not None and newest["digest"] == digest:
            return last
        version = self.versions.add(digest, taken)
        self.record(verb, self.versions.time_ns(version), old=newest, new={"version": version, "digest": digest})
        return version

    def apply(self, change: Change) -> None:
        """Write a change, and a line about it in the history.

        Raises:
            VerificationError: The file of the tags is damaged.
            ResourceError: It is done, but the history could not be written.
        """
        old, new = change.old or {}, change.new or {}
        match change.verb:
            case "alias" if new:
                self.aliases.point(new["alias"], Target(new["version"], new["digest"]))
            case "alias":
                self.aliases.delete(old["alias"])
            case "tag":
                self.tags.write(self.tags.read() | {new["version"]: new["tags"]})
            case "remove":
                self.versions.remove(old["version"])
            case "restore":
                self.versions.restore(new["version"])
            case verb:
                raise ValueError(f"no change is called {verb!r}")
        self.record(change.verb, time.time_ns(), old=change.old, new=change.new)

    def described(self, version: int) -> dict[str, Any]:
        """A version in the history's words; an empty digest stands for a corrupt pointer."""
        return {"version": version, "digest": self.versions.intact_digest(version, "")}

    def record(
        self, verb: str, time_ns: int, *, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
    ) -> Change:
        """Add a line to the history; one of `old` and `new` has the number of a `version`.

        Raises:
            ResourceError: It could not be written; what it is about stays.
        """
        change = Change(self.name, verb, old, new)
        try:
            self.history.append(verb, time=iso_time(time_ns), old=old, new=new)
        except OSError as error:
            raise ResourceError(
                f"`{verb}` of {change.reference} is done, but the history has no line about it",
                where=str(self.history.path),
                why=error.strerror,
                fix=f"nothing has to be repeated: mwactl registry log {self.name}",
            ) from error
        return change

    def created(self, version: int, digest: str) -> str:
        """When a version with this manifest was published, as `iso_time` writes it.

        The log says so, and survives a copy that resets time stamps; the file does where a kill cost the log its line.
        """
        line = self.history.find({"version": version, "digest": digest})
        return iso_time(self.versions.time_ns(version)) if line is None else str(line["time"])
