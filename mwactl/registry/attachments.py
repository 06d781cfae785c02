"""Results that come after publication: small blobs that name their subject, listed beside the versions.

The manifest never changes for them, so an entry's digest stays what it was when it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mwactl.errors import VerificationError
from mwactl.files import canonical_json
from mwactl.registry.blobs import BlobStore
from mwactl.registry.entry import Entry
from mwactl.registry.history import iso_time
from mwactl.registry.numbered import NumberedPointers

SCHEMA = 1
_PREFIX_DIGITS = 16


def attachment_bytes(subject: str, kind: str, document: Mapping[str, Any]) -> bytes:
    """The canonical bytes of an attachment to the manifest with digest `subject`.

    Raises:
        ValueError: The document is not JSON.
    """
    return canonical_json({"schema": SCHEMA, "kind": kind, "subject": subject, "document": document})


class Attachments:
    """What is attached to one entry.

    Args:
        root: The registry.
        blobs: Its blobs.
        entry: The subject.
    """

    def __init__(self, root: Path, blobs: BlobStore, entry: Entry) -> None:
        self._root = root
        self._blobs = blobs
        self._entry = entry
        self._directory = root / "refs" / entry.name / "attached" / entry.digest[:_PREFIX_DIGITS]

    def pointers(self, kind: str) -> NumberedPointers:
        """The pointers to the attachments of a kind."""
        return NumberedPointers(self._root, self._directory / kind)

    def read(self, kind: str | None = None) -> list[dict[str, Any]]:
        """All attachments (of a kind), oldest first within their kind; `Registry.attachments` says what they hold."""
        kinds = sorted(path.name for path in self._directory.iterdir()) if self._directory.is_dir() else []
        return [
            self._read(found, number)
            for found in kinds
            if kind in (None, found)
            for number in self.pointers(found).numbers()
        ]

    def _read(self, kind: str, number: int) -> dict[str, Any]:
        pointers = self.pointers(kind)
        attachment: dict[str, Any] = {
            "kind": kind,
            "created": iso_time(pointers.time_ns(number)),
            "digest": None,
            "document": {},
        }
        try:
            digest = pointers.digest(number)
            attachment["digest"] = digest
            attachment["document"] = self._document(kind, digest, f"{kind} {number} of {self._entry.reference}")
        except VerificationError as error:
            attachment["problem"] = str(error.what) + (f"; {error.why}" if error.why else "")
        return attachment

    def _document(self, kind: str, digest: str, where: str) -> dict[str, Any]:
        attached = json.loads(self._blobs.read(digest, where=where))
        # The digest proves that nothing changed, not that the pointer leads to something about this entry.
        if not isinstance(attached, dict) or attached.get("subject") != self._entry.digest or attached["kind"] != kind:
            raise VerificationError(f"{where} is about something else", where=digest)
        if attached["schema"] != SCHEMA:
            raise VerificationError(f"{where} was written by a newer mwactl", why=f"it has schema {attached['schema']}")
        document: dict[str, Any] = attached["document"]
        return document
