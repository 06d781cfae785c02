"""What every kind of remote can do, and what passes between it and this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mwactl.errors import MwactlError
from mwactl.progress import Progress
from mwactl.registry import Entry
from mwactl.registry.untrusted import MAX_JSON_BYTES, fail
from mwactl.remote.address import HubAddress, OciAddress
from mwactl.remote.client import Http
from mwactl.remote.fetch import Wanted
from mwactl.remote.refusal import Door

MAX_ATTACHMENTS = 1000
"""No remote is asked for more documents about one adapter, or given them."""

MAX_DOCUMENT_BYTES = 8 * MAX_JSON_BYTES
"""All documents about one adapter together are not longer: they are kept in memory."""


class Documents:
    """Counts what is read from a remote about one adapter, so that it cannot be without end.

    Args:
        where: What it is about, for the error.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._bytes = 0

    def take(self, data: bytes) -> bytes:
        """The document itself, once it is counted.

        Raises:
            VerificationError: All of them together are too long.
        """
        self._bytes += len(data)
        if self._bytes > MAX_DOCUMENT_BYTES:
            fail("too much is attached to it", where=self._where, why=f"more than {MAX_DOCUMENT_BYTES:,} bytes")
        return data


def check_count(count: int, entry: Entry) -> None:
    """Look whether a push would attach more to an entry than a pull takes.

    Raises:
        MwactlError: It would.
    """
    if count > MAX_ATTACHMENTS:
        raise MwactlError(
            f"too much is attached to {entry.reference}; nothing was sent",
            why=f"with what is there it would be {count:,} documents, and a pull takes {MAX_ATTACHMENTS:,}",
            fix=f"mwactl registry pack {entry.reference} -o FILE.tar   (a bundle holds more)",
        )


@dataclass(frozen=True)
class Shipment:
    """An entry on its way out."""

    root: Path
    """The registry that holds it."""
    entry: Entry
    """The entry."""
    readme: bytes | None = None
    """Its model card, for places that show one."""


@dataclass(frozen=True)
class Item:
    """Something that a push sends."""

    what: str
    """What it is to the user: a path, `manifest`, …"""
    digest: str
    """The SHA-256 of its bytes."""
    size: int
    """How many there are."""
    there: bool
    """Whether the remote has it already."""


@dataclass(frozen=True)
class Sent:
    """What a push left behind."""

    address: str
    """Where it can be pulled from."""
    pinned: str
    """The address that always means this content, whatever is pushed later."""
    items: tuple[Item, ...]
    """What it is made of, and what of it was there before."""


@dataclass(frozen=True)
class Offer:
    """An adapter at a remote: its documents are here and unchanged, its files are still there."""

    name: str
    """What it is called unless somebody says otherwise."""
    manifest: bytes
    """Its manifest, to the byte."""
    attachments: tuple[bytes, ...]
    """What is attached to it, oldest first within their kind."""
    wanted: Callable[[Mapping[str, Any]], Wanted]
    """From a file record of the manifest to where the file is."""


class Remote(Protocol):
    """A place that adapters are sent to and fetched from."""

    @property
    def address(self) -> HubAddress | OciAddress:
        """Which place."""

    @property
    def http(self) -> Http:
        """The client that fetches its files."""

    @property
    def door(self) -> Door:
        """How it lets people in."""

    def plan(self, shipment: Shipment) -> list[Item]:
        """What a push would send; nothing is."""

    def push(self, shipment: Shipment, progress: Progress) -> Sent:
        """Send it; `progress` hears of the bytes of its files."""

    def offer(self) -> Offer:
        """What lies at the address."""
