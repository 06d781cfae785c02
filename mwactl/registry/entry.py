"""One version in the registry, as a reader sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A version whose manifest was verified and whose files are there; their bytes are verified when they are read."""

    name: str
    """The name it was published under."""
    version: int
    """Its number: 1, 2, 3… within the name."""
    digest: str
    """The manifest's SHA-256, in hexadecimal: the identity of the content, whatever its name."""
    manifest: dict[str, Any]
    """What it is: schema, kind, parents, files, and the facts given when it was published."""
    created: str
    """When it was published: ISO 8601 in UTC."""

    @property
    def reference(self) -> str:
        """`name@3`."""
        return f"{self.name}@{self.version}"

    @property
    def size_bytes(self) -> int:
        """The sizes of all files together."""
        return sum(file["size"] for file in self.manifest["files"])


@dataclass(frozen=True)
class BrokenEntry:
    """A version that cannot be read."""

    name: str
    """The name it was published under."""
    version: int
    """Its number."""
    problem: str
    """What is wrong, in one line."""

    @property
    def reference(self) -> str:
        """`name@3`."""
        return f"{self.name}@{self.version}"
