"""Push and pull: the same two ways for every kind of remote. Nothing is sent, or gets a name here, unverified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mwactl.errors import UsageError, VerificationError
from mwactl.files import sha256_file
from mwactl.progress import Progress, Reporter, Silent
from mwactl.registry import Entry, Registry
from mwactl.registry.blobs import BlobStore
from mwactl.registry.bundle import check_registered
from mwactl.registry.manifest import check_publishable
from mwactl.registry.receive import Delivery, check_delivery
from mwactl.registry.reference import checked_name
from mwactl.registry.staging import Source
from mwactl.registry.writing import check_space
from mwactl.remote.address import HubAddress, parse_address
from mwactl.remote.fetch import fetch
from mwactl.remote.hf import HubRemote
from mwactl.remote.incoming import clear, incoming
from mwactl.remote.oci import OciRemote
from mwactl.remote.offer import Item, Offer, Remote, Sent, Shipment
from mwactl.remote.refusal import naming_refusals


def open_remote(
    text: str, *, plain_http: bool = False, public: bool = False, reporter: Reporter | None = None
) -> Remote:
    """The remote at an address; nothing is sent yet.

    Args:
        text: `hf://org/name[@rev]` or `oci://host[:port]/repo:tag`.
        plain_http: Speak HTTP without encryption to an OCI registry that is not on this machine.
        public: A repository that a push makes on the Hub can be seen by everyone.
        reporter: Hears what is tried again.

    Raises:
        UsageError: The text is no address, or an option does not go with it.
    """
    address = parse_address(text)
    if isinstance(address, HubAddress):
        if plain_http:
            raise UsageError("the Hub is never spoken to without encryption", fix="leave out --plain-http")
        return HubRemote(address, public=public, reporter=reporter or Silent())
    if public:
        raise UsageError("a registry decides itself who sees what", fix="leave out --public")
    return OciRemote(address, plain_http=plain_http, reporter=reporter or Silent())


def plan_push(registry: Registry, entry: Entry, remote: Remote, *, readme: bytes | None = None) -> list[Item]:
    """What a push would send, and what of it is there; nothing is sent.

    Args:
        registry: Where the entry is.
        entry: What would be pushed.
        remote: To where.
        readme: Its model card, for places that show one.

    Raises:
        UsageError: The entry is a folder's, not the registry's.
        VerificationError: A file of the entry is not what its manifest says.
        MwactlError: The remote cannot be reached, or refuses.
    """
    _check_whole(registry, entry)
    with naming_refusals(remote.door):
        return remote.plan(Shipment(registry.root, entry, readme))


def push(
    registry: Registry, entry: Entry, remote: Remote, *, readme: bytes | None = None, reporter: Reporter | None = None
) -> Sent:
    """Send an entry, with what is attached to it.

    The remote shows the whole of it or none; what is there already is not sent again.
    Arguments as in `plan_push`.

    Raises:
        UsageError: The entry is a folder's, not the registry's.
        VerificationError: A file of the entry is not what its manifest says.
        MwactlError: The remote cannot be reached, or refuses.
    """
    _check_whole(registry, entry)
    progress = (reporter or Silent()).progress(f"pushing {entry.reference}", entry.size_bytes)
    try:
        with naming_refusals(remote.door):
            return remote.push(Shipment(registry.root, entry, readme), progress)
    finally:
        progress.close()


@dataclass(frozen=True)
class Pull:
    """An adapter that could be pulled: everything about it is known, its files are still at the remote."""

    name: str
    """The name it would get."""
    delivery: Delivery
    """Its documents, checked."""
    here: frozenset[str]
    """The SHA-256 of those of its files that are in this registry already, and whole."""
    held: tuple[str, ...]
    """The versions (`coco@3`) that it is here already."""
    offer: Offer
    """Where the others are."""

    @property
    def fetch_bytes(self) -> int:
        """How much is to be fetched."""
        return sum(file["size"] for file in self.to_fetch.values())

    @property
    def to_fetch(self) -> dict[str, Mapping[str, Any]]:
        """SHA-256 → file record, each content once."""
        return {file["sha256"]: file for file in self.delivery.files if file["sha256"] not in self.here}


def plan_pull(registry: Registry, remote: Remote, name: str | None = None) -> Pull:
    """Look what lies at a remote, and what of it is missing here; nothing is written.

    Raises:
        UsageError: The name cannot be one in the registry.
        NotFoundError: There is nothing at the address.
        VerificationError: It is no adapter, one with pickles, or not what its digests say.
        MwactlError: The remote cannot be reached, or refuses.
    """
    if name is not None:
        name = checked_name(name)
    with naming_refusals(remote.door):
        offer = remote.offer()
    name = name or _local_name(offer.name)
    delivery = check_delivery(offer.manifest, offer.attachments, where=str(remote.address))
    blobs = BlobStore(registry.root)
    here = frozenset(digest for digest in {file["sha256"] for file in delivery.files} if _is_whole(blobs, digest))
    held = tuple(registry.references().get(delivery.digest, ()))
    return Pull(name, delivery, here, held, offer)


def pull(registry: Registry, remote: Remote, plan: Pull, *, reporter: Reporter | None = None) -> Entry:
    """Fetch what is missing, and publish the whole under its name once every byte is verified.

    What has come stays in the cache when this is interrupted, and the next call goes on from it.

    Raises:
        VerificationError: Bytes are not what the manifest says.
        ResourceError: No space, or a lock was not free in time.
        MwactlError: The remote cannot be reached, or refuses.
    """
    reporter = reporter or Silent()
    with incoming(reporter) as folder:
        _check_room(registry.root, folder, plan)
        blobs = BlobStore(registry.root)
        sources: dict[str, Source] = {digest: blobs.path(digest) for digest in plan.here}
        progress = reporter.progress(f"pulling {plan.name}", plan.fetch_bytes)
        try:
            sources |= _fetch_all(remote, plan, folder, progress)
        finally:
            progress.close()
        entry = registry.receive(plan.name, plan.delivery.manifest, sources, plan.offer.attachments, verb="pull")
        # All of it: what is here may have come with a pull that was stopped before it could tidy up.
        clear(folder, [file["sha256"] for file in plan.delivery.files])
    return entry


def _fetch_all(remote: Remote, plan: Pull, folder: Path, progress: Progress) -> dict[str, Path]:
    with naming_refusals(remote.door):
        return {
            digest: fetch(remote.http, plan.offer.wanted(file), folder, progress)
            for digest, file in plan.to_fetch.items()
        }


def _check_room(root: Path, folder: Path, plan: Pull) -> None:
    """Look for room in the cache and in the registry; what comes is in both for a while."""
    arrived = sum(min((folder / digest).stat().st_size, file["size"])
                  for digest, file in plan.to_fetch.items() if (folder / digest).exists())  # fmt: skip
    missing = plan.fetch_bytes - arrived
    existing = next(path for path in (root, *root.parents) if path.is_dir())
    if existing.stat().st_dev == folder.stat().st_dev:
        check_space(root, missing + plan.fetch_bytes)
    else:
        check_space(folder, missing)
        check_space(root, plan.fetch_bytes)


def _check_whole(registry: Registry, entry: Entry) -> None:
    """Hash what is to be sent: rot stays at home, and so does what is not in the registry."""
    check_registered(entry)
    blobs = BlobStore(registry.root)
    for file in entry.manifest["files"]:
        check_publishable(file["path"])
        if not _is_whole(blobs, file["sha256"]):
            raise VerificationError(
                f"{file['path']} of {entry.reference} is corrupt; nothing was sent",
                where=str(blobs.path(file["sha256"])),
                fix=f"mwactl registry verify {entry.reference}",
            )


def _is_whole(blobs: BlobStore, digest: str) -> bool:
    try:
        return sha256_file(blobs.path(digest)) == digest
    except OSError:
        return False


def _local_name(offered: str) -> str:
    try:
        return checked_name(offered)
    except UsageError as error:
        raise UsageError(error.what, why=error.why, fix="give it another name: --name NAME") from error
