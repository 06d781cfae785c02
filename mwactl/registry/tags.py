"""Tags: words that people put on versions, `key=value`; `tags.json` of a name holds them all, with a checksum.

It is read, changed and replaced as a whole: on a file system without locks, the later of two changes at once wins. The
history holds both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mwactl.errors import UsageError, VerificationError
from mwactl.files import canonical_json, sha256_bytes, sync_directory
from mwactl.registry.fault import REPAIR
from mwactl.registry.staging import staged

Words = dict[str, str]
"""The tags of one version: key → value."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_LONGEST_VALUE = 200


def parse_words(texts: Iterable[str]) -> Words:
    """Read `key=value` words; the value may hold more of `=`.

    Raises:
        UsageError: One is no such word, or a key is there twice.
    """
    words: Words = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} is no tag", why="a tag is key=value", fix="split=val, or --delete split")
        if key in words:
            raise UsageError(f"the tag {key!r} is given twice", fix="give it once")
        words[key] = value
    return words


def check_words(words: Mapping[str, str]) -> None:
    """Look whether these can be tags.

    Raises:
        UsageError: A key or a value cannot be kept.
    """
    for key, value in words.items():
        if not _KEY.fullmatch(key):
            why = "a key has 1 to 64 letters, digits, '.', '_', '/' or '-', and starts with a letter or a digit"
            raise UsageError(f"{key!r} cannot be the key of a tag", why=why, fix="use a key such as reviewed-by")
        if not value or not value.isprintable() or len(value) > _LONGEST_VALUE:
            why = f"a value is one line of 1 to {_LONGEST_VALUE} characters"
            raise UsageError(f"{value[:40]!r} cannot be the value of the tag {key}", why=why, fix=f"--delete {key}")


class Tags:
    """The tags of one name.

    Args:
        root: The registry, for staging.
        path: The file; it need not exist.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path

    def read(self) -> dict[int, Words]:
        """Version → its tags.

        Raises:
            VerificationError: The file is damaged, or cannot be read.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            what, fix = "the tags cannot be read", f"make the file readable, or: {REPAIR}"
            raise VerificationError(what, where=str(self._path), why=error.strerror, fix=fix) from error
        tags = _parsed(data)
        if tags is None:
            raise VerificationError(
                f"the tags of {self._path.parent.name} are damaged",
                where=str(self._path),
                why="the file does not have the checksum that is in it",
                fix=f"{REPAIR}   (mwactl registry log {self._path.parent.name} has each change)",
            )
        return tags

    def write(self, tags: Mapping[int, Mapping[str, str]]) -> None:
        """Replace all the tags, in one step."""
        with staged(self._root, tags_bytes(tags)) as fresh:
            fresh.path.replace(self._path)
            sync_directory(self._path.parent)


def tags_bytes(tags: Mapping[int, Mapping[str, str]]) -> bytes:
    """What the file of these tags holds."""
    return _checked_bytes({str(version): dict(words) for version, words in tags.items() if words})


def tags_in_history(records: Iterable[Mapping[str, Any]]) -> dict[int, Words]:
    """What the tags were after the last intact line of the history about each version: to rebuild a damaged file."""
    tags: dict[int, Words] = {}
    for record in records:
        new = record.get("new") if record.get("verb") == "tag" else None
        if isinstance(new, dict) and type(new.get("version")) is int and _are_words(new.get("tags")):
            tags[new["version"]] = new["tags"]
    return {version: words for version, words in tags.items() if words}


def _checked_bytes(document: Mapping[str, Words]) -> bytes:
    return canonical_json({**document, "sha256": sha256_bytes(canonical_json(document))}) + b"\n"


def _parsed(data: bytes) -> dict[int, Words] | None:
    """The tags in a file, or None where it is not what was written."""
    try:
        document = json.loads(data)
        document.pop("sha256")
        if not all(map(_VERSION.fullmatch, document)) or not all(map(_are_words, document.values())):
            return None
        intact = _checked_bytes(document) == data
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):  # no JSON, or of another shape
        return None
    return {int(version): words for version, words in document.items()} if intact else None


def _are_words(words: object) -> bool:
    return isinstance(words, dict) and all(isinstance(value, str) for value in words.values())
