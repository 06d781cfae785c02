"""Results that come after publication: small blobs that name their subject, listed beside the versions.

The manifest never changes for them, so an entry's digest stays what it was when it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
_FETCH_AGAIN = "fetch it again; if it comes the same, have it packed or pushed again by whoever made it"


def is_local(kind: str) -> bool:
    """Whether results of a kind are about this machine alone: neither packed nor sent, nor taken from elsewhere."""
    return kind.startswith("local-")


def attached_directory(root: Path, name: str, digest: str) -> Path:
    """Where the pointers to the attachments of a manifest are, a directory for each kind."""
    return root / f"refs/{name}/attached/{digest[:_PREFIX_DIGITS]}"  # one step: lists ask for thousands


def attachment_bytes(subject: str, kind: str, document: Mapping[str, Any]) -> bytes:
    """The canonical bytes of an attachment to the manifest with digest `subject`.

    Raises:
        ValueError: The document is not JSON.
    """
    return canonical_json({"schema": SCHEMA, "kind": kind, "subject": subject, "document": document})


def parse_attachment(data: bytes, *, kind: str, subject: str, where: str, fix: str = _FETCH_AGAIN) -> dict[str, Any]:
    """The document in the bytes of an attachment; `fix` is what to do where they are none.

    Raises:
        VerificationError: They are about another kind or subject, or a newer version wrote them.
    """
    about = f"sha256:{subject[:12]}…"
    try:
        attached = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{where} is no JSON", where=about, why=str(error), fix=fix) from error
    # The digest proves that nothing changed, not that the pointer leads to something about this entry.
    if not isinstance(attached, dict) or (attached.get("subject"), attached.get("kind")) != (subject, kind):
        raise VerificationError(f"{where} is about something else", where=about, fix=fix)
    if attached.get("schema") != SCHEMA:
        raise VerificationError(
            f"{where} was written by a newer mwactl",
            where=about,
            why=f"it has schema {attached.get('schema')}, this version reads {SCHEMA}",
            fix="pip install --upgrade mwactl",
        )
    if not isinstance(attached.get("document"), dict):
        raise VerificationError(f"{where} has no document", where=about, fix=fix)
    document: dict[str, Any] = attached["document"]
    return document


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
        self._directory = attached_directory(root, entry.name, entry.digest)

    def pointers(self, kind: str) -> NumberedPointers:
        """The pointers to the attachments of a kind."""
        return NumberedPointers(self._root, self._directory / kind)

    def kinds(self) -> list[str]:
        """The kinds there are, sorted."""
        return sorted(path.name for path in self._directory.iterdir()) if self._directory.is_dir() else []

    def read(self, kind: str | None = None) -> list[dict[str, Any]]:
        """All attachments (of a kind), oldest first within their kind; `Registry.attachments` says what they hold."""
        return [
            self._read(found, number)
            for found in self.kinds()
            if kind in (None, found)
            for number in self.pointers(found).numbers()
        ]

    def portable(self) -> Iterator[tuple[str, int, bytes]]:
        """Kind, number and verified bytes of every attachment that holds on other machines too.

        Raises:
            VerificationError: One is corrupt.
        """
        for kind in self.kinds():
            pointers = self.pointers(kind)
            for number in () if is_local(kind) else pointers.numbers():
                where = f"{kind} {number} of {self._entry.reference}"
                data = self._blobs.read(pointers.digest(number), where=where)
                pointer = self._directory / kind / str(number)
                fix = f"delete the file {pointer}, which leads there; then: mwactl eval {self._entry.reference}"
                parse_attachment(data, kind=kind, subject=self._entry.digest, where=where, fix=fix)
                yield kind, number, data

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
            where = f"{kind} {number} of {self._entry.reference}"
            data = self._blobs.read(digest, where=where)
            attachment["document"] = parse_attachment(data, kind=kind, subject=self._entry.digest, where=where)
        except VerificationError as error:
            attachment["problem"] = str(error.what) + (f"; {error.why}" if error.why else "")
        return attachment
