"""One change of what a name means: what verbs return, what the history holds, and the command that undoes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """From `old` to `new`, under one name; None is nothing."""

    name: str
    """The name."""
    verb: str
    """What was done: `alias`, `tag`, `remove`, `restore`, or what published a version."""
    old: Mapping[str, Any] | None
    """What was there: a `version`, its `digest`, and the `alias` or the `tags` that it had."""
    new: Mapping[str, Any] | None
    """What is there now."""

    @classmethod
    def from_record(cls, name: str, record: Mapping[str, Any]) -> Change:
        """The change that an intact line of the history tells of."""
        return cls(name, record["verb"], record["old"], record["new"])

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return self.old == self.new

    @property
    def version(self) -> int | None:
        """The version it is about: the new one, or that which is gone."""
        about = self.new or self.old or {}
        number = about.get("version")
        return number if isinstance(number, int) else None

    @property
    def reference(self) -> str:
        """`name@3`."""
        return self.name if self.version is None else f"{self.name}@{self.version}"

    @property
    def undo(self) -> str | None:
        """The command that puts back what was there; None where nothing changed, or where nothing is lost by it."""
        if self.is_empty or self.version is None:
            return None
        if self.verb == "alias":
            return self._undo_alias()
        if self.verb == "tag":
            return self._undo_tag()
        if self.verb == "remove":
            return f"mwactl registry rm --undo {self.reference}"
        published = self.new is not None and self.new.keys() - {"restored"} == {"version", "digest"}
        return f"mwactl registry rm {self.reference}" if published else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, "verb": self.verb, "old": self.old, "new": self.new, "undo": self.undo}

    def _undo_alias(self) -> str:
        if self.old is not None and "version" in self.old:
            return f"mwactl registry alias {self.name}@{self.old['version']} {self.old['alias']}"
        assert self.new is not None
        return f"mwactl registry alias {self.name} {self.new['alias']} --delete"

    def _undo_tag(self) -> str:
        old, new = ((side or {}).get("tags", {}) for side in (self.old, self.new))
        words = [f"{key}={value}" for key, value in old.items() if new.get(key) != value]
        gone = [word for key in new if key not in old for word in ("--delete", key)]
        return shlex.join(["mwactl", "registry", "tag", self.reference, *words, *gone])
