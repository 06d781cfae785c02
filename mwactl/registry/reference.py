"""What a user types to name a version: `coco`, `coco@3`, `coco@sha256:ab12cdef`, `coco:prod`, or a folder, `./coco`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mwactl.errors import UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_PATHS = ("./", "../", "/", "~/")
_DIGEST_PREFIX = re.compile(r"[0-9a-f]{8,64}")

# Names become directories, and a registry may be copied to Windows, where these open a device whatever follows the dot.
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)


@dataclass(frozen=True)
class Reference:
    """A parsed reference: one of the other fields is set, or only the name, which means the newest version."""

    name: str
    """The name, in lower case; empty where it is a folder."""
    version: int | None = None
    """The number after `@`."""
    digest_prefix: str | None = None
    """At least 8 hexadecimal digits of the manifest's SHA-256, after `@sha256:`."""
    alias: str | None = None
    """The word after `:`."""
    folder: str | None = None
    """A folder that holds an entry outside the registry, as it was typed."""

    def __str__(self) -> str:
        """The reference as it is typed."""
        if self.folder is not None:
            return self.folder
        if self.version is not None:
            return f"{self.name}@{self.version}"
        if self.digest_prefix is not None:
            return f"{self.name}@sha256:{self.digest_prefix}"
        return self.name if self.alias is None else f"{self.name}:{self.alias}"


def parse_reference(text: str) -> Reference:
    """Read a reference; names are folded to lower case, and what begins like a path (`./`, `/`, `~/`) is a folder.

    Raises:
        UsageError: The text is no reference.
    """
    if text in (".", "..") or text.startswith(_PATHS):
        return Reference("", folder=text)
    name, at, selector = text.partition("@")
    if not at:
        name, colon, alias = text.partition(":")
        return Reference(checked_name(name), alias=checked_name(alias) if colon else None)
    name = checked_name(name)
    if _VERSION.fullmatch(selector):
        return Reference(name, version=int(selector))
    algorithm, _, prefix = selector.lower().partition(":")
    if algorithm == "sha256" and _DIGEST_PREFIX.fullmatch(prefix):
        return Reference(name, digest_prefix=prefix)
    raise UsageError(
        f"{text!r} does not name a version",
        why="after @ comes a number, or sha256: and 8 or more hexadecimal digits",
        fix=f"mwactl registry show {name}   (the newest version)",
    )


def checked_name(text: str) -> str:
    """The name of an adapter (or of an alias) in lower case.

    Raises:
        UsageError: The text cannot be a name.
    """
    # Only ASCII is folded: a few other letters (the Kelvin sign) fold to ASCII ones and would make two names one.
    name = text.lower() if text.isascii() else text
    if not _NAME.fullmatch(name):
        why = "a name has 1 to 64 letters, digits, '.', '_' or '-', and starts with a letter or a digit"
    elif ".." in name or name.endswith("."):
        why = "a name has no '..' and does not end in '.'"
    elif name.partition(".")[0] in _WINDOWS_DEVICES:
        why = f"{name.partition('.')[0].upper()} is a device on Windows"
    else:
        return name
    raise UsageError(f"{text!r} cannot be a name in the registry", why=why, fix="use a name such as coco-mwa")
