"""Who did what and when: `log.jsonl` beside the versions. No reader depends on it; it is for people and for undo."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry.staging import write_all

_CHECKED = re.compile(rb'\{"check":"([0-9a-f]{16})",(.*)')
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso_time(time_ns: int) -> str:
    """Nanoseconds since 1970 as ISO 8601 in UTC with microseconds; such texts sort as their times do."""
    return (_EPOCH + timedelta(microseconds=time_ns // 1000)).isoformat(timespec="microseconds")


class History:
    """The log of one name: an append-only file with a checksum in every line.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._asked_at: int | None = None

    @cached_property
    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def append(self, verb: str, *, time: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> None:
        """Add a line.

        Args:
            verb: What was done: `train`, `attach`, …
            time: When, as `iso_time` writes it.
            old: What was there before; None: nothing.
            new: What was made; None where something was taken away.
        """
        record = {"time": time, "user": _user(), "host": platform.node(), "verb": verb, "old": old, "new": new}
        line = canonical_json(record | {"check": _checksum(record)}) + b"\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)  # the umask decides who may add
        try:
            end = os.fstat(descriptor).st_size
            # A writer that was killed may have left half a line: it must not swallow this one.
            torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
            write_all(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def find(self, new: Mapping[str, Any]) -> dict[str, Any] | None:
        """The intact line whose `new` is exactly this; quickest for a version older than the one asked for before.

        The file is read once, at the first question.
        """
        needle = b',"new":' + canonical_json(new) + b',"old":'
        at = self._content.rfind(needle, 0, self._asked_at)
        if at < 0:
            at = self._content.rfind(needle)
        if at < 0:
            return None
        self._asked_at = at
        end = self._content.find(b"\n", at)
        record = self._record(0, self._content[self._content.rfind(b"\n", 0, at) + 1 : end if end >= 0 else None])
        return None if "problem" in record else record

    def records(self) -> list[dict[str, Any]]:
        """The lines in order; a damaged line appears as `{"problem": …}`."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            return [{"problem": f"{self.path} cannot be read: {error.strerror}"}]
        return [self._record(number, line) for number, line in enumerate(lines, 1) if line]

    def intact_lines(self) -> bytes:
        """The file without its damaged lines, as it is written back where it is repaired.

        Raises:
            OSError: It cannot be read.
        """
        lines = self.path.read_bytes().split(b"\n")
        return b"".join(line + b"\n" for line in lines if line and "problem" not in self._record(0, line))

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        # Canonical JSON begins with "check", the first of the keys: what it is about is the rest, byte for byte.
        intact = _CHECKED.fullmatch(line)
        if intact and sha256_bytes(b"{" + intact[2])[: len(intact[1])].encode() == intact[1]:
            with suppress(ValueError):
                record: dict[str, Any] = json.loads(line)
                del record["check"]
                return record
        return {"problem": f"line {number} of {self.path} is damaged"}


def _checksum(record: Mapping[str, Any]) -> str:
    return sha256_bytes(canonical_json(record))[:16]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no entry in the password file
        return f"uid {os.getuid()}"
