"""Who did what and when: `log.jsonl` beside the versions. No reader depends on it; it is for people and for undo."""

from __future__ import annotations

import getpass
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry.staging import write_all

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

    def append(self, verb: str, *, time: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> None:
        """Add a line.

        Args:
            verb: What was done: `train`, `attach`, …
            time: When, as `iso_time` writes it.
            old: What was the newest before.
            new: What was made.
        """
        record = {"time": time, "user": _user(), "host": platform.node(), "verb": verb, "old": old, "new": new}
        line = canonical_json(record | {"check": _checksum(record)}) + b"\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            end = os.fstat(descriptor).st_size
            # A writer that was killed may have left half a line: it must not swallow this one.
            torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
            write_all(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def records(self) -> list[dict[str, Any]]:
        """The lines in order; a damaged line appears as `{"problem": …}`."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            return [{"problem": f"{self.path} cannot be read: {error.strerror}"}]
        return [self._record(number, line) for number, line in enumerate(lines, 1) if line]

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and record.pop("check", None) == _checksum(record):
                return record
        except ValueError:  # no JSON, or JSON that is not canonical
            pass
        return {"problem": f"line {number} of {self.path} is damaged"}


def _checksum(record: Mapping[str, Any]) -> str:
    return sha256_bytes(canonical_json(record))[:16]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no entry in the password file
        return f"uid {os.getuid()}"
