"""One thing that is wrong in a registry: where, what was expected, what is there, and the command that repairs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPAIR = "mwactl registry verify --repair"


@dataclass(frozen=True)
class Fault:
    """A file that is not what it should be."""

    what: str
    """What the file is to a reader: `coco@3 adapter.safetensors`, `coco:prod`."""
    file: Path
    """The file."""
    expected: str
    """What should be in it."""
    found: str
    """What is."""
    repair: str
    """The next command, or the change to make."""
    content: bytes | None = None
    """What `--repair` writes to the file, where the rest of the registry says what was in it."""

    def as_dict(self, root: Path) -> dict[str, Any]:
        """For JSON; the file is given within the registry."""
        return {
            "what": self.what,
            "file": self.file.relative_to(root).as_posix(),
            "expected": self.expected,
            "found": self.found,
            "repair": self.repair,
            "healable": self.content is not None,
        }


def shortened(digest: str) -> str:
    """A digest as it is printed: `sha256:ab12cdef3456…`."""
    return f"sha256:{digest[:12]}…"


def seen_in(path: Path) -> str:
    """What a small file holds, for `found`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "no file"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    return repr(data[:80].decode("ascii", "backslashreplace")) if data else "an empty file"
