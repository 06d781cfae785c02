"""An OCI registry as a place for adapters.

Blobs go up when the registry lacks them, the documents that refer to them after them, and the tag last: whoever pulls
sees the whole adapter or none.
"""

from __future__ import annotations

from mwactl.errors import UsageError, VerificationError
from mwactl.files import sha256_bytes
from mwactl.progress import Progress, Reporter
from mwactl.registry import Entry
from mwactl.registry.oci_layout import (
    ATTACHMENT_TYPE,
    IMAGE_TYPE,
    Artifact,
    Descriptor,
    Image,
    entry_artifacts,
    parse_descriptor,
    parse_image,
)
from mwactl.registry.staging import Source, size_of
from mwactl.registry.untrusted import fail
from mwactl.remote.address import OciAddress
from mwactl.remote.client import Http
from mwactl.remote.fetch import Wanted
from mwactl.remote.oci_api import OciRepository
from mwactl.remote.offer import MAX_ATTACHMENTS, Documents, Item, Offer, Sent, Shipment, check_count
from mwactl.remote.refusal import Door, missing

_OURS = "application/vnd.mwactl."


class OciRemote:
    """A tag, or a digest, in one repository of a registry.

    Args:
        address: Which.
        plain_http: Speak HTTP without encryption; to this machine itself that is done anyway.
        reporter: Hears what is tried again.
    """

    def __init__(self, address: OciAddress, *, plain_http: bool, reporter: Reporter) -> None:
        self.address = address
        self._repository = OciRepository(address, plain_http=plain_http, reporter=reporter)

    @property
    def http(self) -> Http:
        """The registry's client."""
        return self._repository.http

    @property
    def door(self) -> Door:
        """How the registry lets people in."""
        return self._repository.door

    def plan(self, shipment: Shipment) -> list[Item]:
        """What a push would send: every blob, and the image manifests that refer to them."""
        return self._items(self._artifacts(shipment), shipment.entry)

    def _items(self, artifacts: list[Artifact], entry: Entry) -> list[Item]:
        titles = {file["sha256"]: file["path"] for file in entry.manifest["files"]}
        titles |= {entry.digest: "manifest", sha256_bytes(b"{}"): "nothing"}
        items = [
            Item(titles.get(digest, "attachment"), digest, size_of(source), self._repository.has_blob(digest))
            for digest, source in _blobs_of(artifacts).items()
        ]
        for artifact in artifacts:
            what = "image manifest" if artifact is artifacts[0] else "image manifest of an attachment"
            digest = artifact.descriptor.digest
            there = self._repository.has_manifest(f"sha256:{digest}")
            items.append(Item(what, digest, artifact.descriptor.size, there))
        return items

    def push(self, shipment: Shipment, progress: Progress) -> Sent:
        """Send an entry and what is attached to it."""
        whole, *attachments = artifacts = self._artifacts(shipment)
        items = self._items(artifacts, shipment.entry)
        there = {item.digest for item in items if item.there}
        for digest, source in _blobs_of(artifacts).items():
            if digest in there:
                progress.advance(size_of(source))
            else:
                self._repository.put_blob(digest, source, progress)
        # Also those that are there: an earlier push may have been stopped before they were listed.
        unlisted = [
            attachment.descriptor
            for attachment in attachments
            if not self._repository.put_manifest(attachment.manifest, f"sha256:{attachment.descriptor.digest}")
        ]
        if unlisted:
            self._repository.list_referrers(whole.descriptor.digest, unlisted)
        self._repository.put_manifest(whole.manifest, self.address.reference)
        return Sent(str(self.address), str(self.address.at(whole.descriptor.digest)), tuple(items))

    def offer(self) -> Offer:
        """What lies at the address: its documents are verified, its files are still to be fetched.

        Raises:
            NotFoundError: There is nothing.
            VerificationError: It is no adapter, or its bytes are wrong.
            MwactlError: The registry cannot be reached, or refuses.
        """
        where = str(self.address)
        data = self._repository.manifest(self.address.reference)
        if data is None:
            raise missing(self.door)
        image = parse_image(data, where=where)
        if image.subject is not None:
            fail("this is attached to an adapter, and is none itself", where=where)
        documents = Documents(f"the attachments of {where}")
        attachments = sorted(self._attachments(data, documents), key=lambda each: (each.title, each.version))
        return Offer(
            image.title,
            self._repository.document(image.config),
            tuple(documents.take(self._repository.document(each.layers[0])) for each in attachments),
            lambda file: Wanted(self._repository.blob_url(file["sha256"]), file["sha256"], file["size"], file["path"]),
        )

    def _artifacts(self, shipment: Shipment) -> list[Artifact]:
        if not self.address.is_tag:
            raise UsageError(
                "nothing can be pushed to a digest",
                where=str(self.address),
                why="a digest follows from the content",
                fix=f"type a tag: oci://{self.address.host}/{self.address.repository}:TAG",
            )
        artifacts = self._as_there(shipment) or entry_artifacts(shipment.root, shipment.entry)
        there = {each.digest for each in self._listed(artifacts[0].descriptor.digest)}
        check_count(len(there | {each.descriptor.digest for each in artifacts[1:]}), shipment.entry)
        return artifacts

    def _as_there(self, shipment: Shipment) -> list[Artifact] | None:
        """The artifacts as the tag holds them, where it holds this content under another name.

        Then the tag stays where it is, and what others attached to it stays with it.
        """
        data = self._repository.manifest(self.address.reference)
        try:
            image = None if data is None else parse_image(data, where=str(self.address))
        except VerificationError:
            return None  # something else, which the push replaces
        if image is None or image.config.digest != shipment.entry.digest:
            return None
        artifacts = entry_artifacts(shipment.root, shipment.entry, called=(image.title, image.version))
        return artifacts if artifacts[0].manifest == data else None

    def _listed(self, subject: str) -> list[Descriptor]:
        where = f"the attachments of {self.address}"
        listed = [parse_descriptor(said, where=where) for said in self._repository.referrers(subject)]
        # Others may attach things of their own: a signature, a list of software. They are not ours to understand.
        return [
            each for each in listed if each.media_type == IMAGE_TYPE and (each.artifact_type or "").startswith(_OURS)
        ]

    def _attachments(self, whole: bytes, documents: Documents) -> list[Image]:
        where, subject = f"the attachments of {self.address}", sha256_bytes(whole)
        ours = self._listed(subject)
        if len(ours) > MAX_ATTACHMENTS:
            fail("too much is attached to it", where=where, why=f"{len(ours):,} documents, at most {MAX_ATTACHMENTS:,}")
        return [self._attachment(each.digest, subject, where, documents) for each in ours]

    def _attachment(self, digest: str, subject: str, where: str, documents: Documents) -> Image:
        data = self._repository.manifest(f"sha256:{digest}")
        if data is None:
            fail("an attachment is listed, but not there", where=where, why=f"sha256:{digest[:12]}…")
        image = parse_image(documents.take(data), where=where)
        if image.subject != subject or image.layers[0].media_type != ATTACHMENT_TYPE:
            fail("an attachment is about something else", where=where, why=f"sha256:{digest[:12]}…")
        return image


def _blobs_of(artifacts: list[Artifact]) -> dict[str, Source]:
    """SHA-256 → content, each once."""
    return {digest: source for artifact in artifacts for digest, source in artifact.blobs.items()}
