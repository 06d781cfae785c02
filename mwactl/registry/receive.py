"""Content that was published elsewhere: taken as it is, once every byte of it is what its manifest says.

`publish` makes a manifest; here one comes from outside and must stay the same to the byte, so that its digest, which
parents and attachments refer to, means the same on every machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mwactl.errors import UsageError, VerificationError
from mwactl.files import canonical_json, sha256_bytes, sha256_file
from mwactl.registry.attachments import attached_directory, is_local, parse_attachment
from mwactl.registry.blobs import BlobStore
from mwactl.registry.folder import NameFolder
from mwactl.registry.manifest import check_publishable, parse_manifest
from mwactl.registry.numbered import NumberedPointers
from mwactl.registry.reference import checked_name
from mwactl.registry.staging import Source, size_of
from mwactl.registry.untrusted import fail, parse_untrusted


@dataclass(frozen=True)
class Delivery:
    """An entry from elsewhere: the documents in it make sense and fit each other, the files are still to be hashed."""

    manifest: bytes
    """The manifest, to the byte."""
    digest: str
    """Its SHA-256."""
    parents: tuple[str, ...]
    """The manifest digests of what it was made from."""
    files: tuple[Mapping[str, Any], ...]
    """The manifest's file records."""
    attachments: tuple[tuple[str, bytes], ...]
    """Kind and bytes of each, oldest first within their kind."""

    @property
    def document_bytes(self) -> int:
        """What the manifest and the attachments take on the disk."""
        return len(self.manifest) + sum(len(data) for _, data in self.attachments)

    @property
    def size_bytes(self) -> int:
        """What all of it takes on the disk."""
        sizes = {file["sha256"]: int(file["size"]) for file in self.files}
        return self.document_bytes + sum(sizes.values())


def check_delivery(manifest: bytes, attachments: Sequence[bytes], *, where: str) -> Delivery:
    """Look whether a manifest and attachments are what a registry would have written.

    Args:
        manifest: The manifest's bytes.
        attachments: The bytes of what is attached to it.
        where: What they came in, for the error.

    Raises:
        VerificationError: They are not, or a file in the manifest is a pickle.
        IncompatibleError: A newer version wrote them.
    """
    _check_canonical(manifest, parse_untrusted(manifest, what="the manifest", where=where), "the manifest", where)
    parsed = parse_manifest(manifest, where=where)
    _check_files(parsed["files"], where)
    _check_name(parsed["kind"], "the manifest's kind", where)
    digest = sha256_bytes(manifest)
    checked = tuple((_attachment_kind(data, digest, where), data) for data in attachments)
    return Delivery(manifest, digest, tuple(parsed["parents"]), tuple(parsed["files"]), checked)


def check_sources(delivery: Delivery, sources: Mapping[str, Source], *, where: str) -> None:
    """Look, without reading, whether the files that were handed over are as long as the manifest says.

    Raises:
        VerificationError: One is not.
    """
    for file in delivery.files:
        source = sources.get(file["sha256"])
        if source is None:
            continue
        if isinstance(source, Path) and not source.is_file():
            fail(f"{file['path']} is not there", where=str(source))
        if (found := size_of(source)) != file["size"]:
            fail(f"{file['path']} is not what the manifest says", where=where, why=_sizes(file["size"], found))


def store(
    root: Path, blobs: BlobStore, folder: NameFolder, delivery: Delivery, sources: Mapping[str, Source], verb: str
) -> int:
    """Make a delivery a version of a name, unless it is one already; its number. The registry is locked meanwhile.

    The blobs come first, then what is attached, and last the version: until then nothing can be seen of it.

    Raises:
        VerificationError: Bytes are not what the manifest says, or a file is neither handed over nor here.
    """
    for digest, file in {file["sha256"]: file for file in delivery.files}.items():
        if digest in sources:
            blobs.put(sources[digest], expect=digest, where=file["path"])
        else:
            _check_present(blobs, file)
            blobs.put(blobs.path(digest))  # young again: a clean-up beside this, where no lock is real, spares it
    blobs.put(delivery.manifest, expect=delivery.digest)
    attached = _attach(root, blobs, folder.name, delivery)
    # Unlike a publication, which repeats the newest version only: content that came back is no news under any number.
    held = [n for n in folder.versions.numbers() if folder.versions.intact_digest(n, "") == delivery.digest]
    version = held[-1] if held else folder.add(delivery.digest, verb)
    for kind, digest, time_ns in attached:
        new = {"version": version, "digest": delivery.digest, "attachment": kind, "attached": digest}
        folder.record("attach", time_ns, old=None, new=new)
    return version


def _attach(root: Path, blobs: BlobStore, name: str, delivery: Delivery) -> list[tuple[str, str, int]]:
    """Add the attachments that are not there yet; kind, digest and time of each."""
    directory = attached_directory(root, name, delivery.digest)
    here: Counter[tuple[str, str]] = Counter()
    for kind in {kind for kind, _ in delivery.attachments}:
        pointers = NumberedPointers(root, directory / kind)
        here.update((kind, pointers.intact_digest(number, "")) for number in pointers.numbers())
    added = []
    for kind, data in delivery.attachments:
        digest, _ = blobs.put(data)  # also where it is known: a rotten copy heals
        # Counted, since a result may have been attached twice with another one in between.
        if here[kind, digest]:
            here[kind, digest] -= 1
            continue
        pointers = NumberedPointers(root, directory / kind)
        added.append((kind, digest, pointers.time_ns(pointers.add(digest))))
    return added


def _check_files(files: Sequence[Mapping[str, Any]], where: str) -> None:
    paths = Counter(file["path"].lower() for file in files)
    if repeated := [path for path, count in paths.items() if count > 1]:
        fail(f"{repeated[0]} is there twice in the manifest", where=where)
    for file in files:
        try:
            check_publishable(file["path"])
        except UsageError as error:
            fail(error.what, where=where, why=error.why)


def _check_name(text: str, what: str, where: str) -> None:
    try:
        if checked_name(text) == text:
            return
        why = "it has capital letters"
    except UsageError as error:
        why = error.why or ""
    fail(f"{what} is {text!r}", where=where, why=why)


def _attachment_kind(data: bytes, subject: str, where: str) -> str:
    """The kind of an attachment that is in order and about this subject."""
    document = parse_untrusted(data, what="an attachment", where=where)
    _check_canonical(data, document, "an attachment", where)
    kind = document.get("kind")
    if not isinstance(kind, str):
        fail("an attachment has no kind", where=where)
    _check_name(kind, "an attachment's kind", where)
    if is_local(kind):
        fail(f"a {kind!r} is attached", where=where, why="that holds on one machine only and is never sent")
    parse_attachment(data, kind=kind, subject=subject, where=f"an attachment ({kind})")
    return kind


def _check_canonical(data: bytes, document: Mapping[str, Any], what: str, where: str) -> None:
    try:
        canonical = canonical_json(document)
    except ValueError as error:  # infinite numbers, half a surrogate pair
        fail(f"{what} cannot be kept", where=where, why=str(error))
    if canonical != data:
        fail(f"{what} is not spelt as a registry spells it", where=where, why="keys are unsorted, or there are blanks")


def _check_present(blobs: BlobStore, file: Mapping[str, Any]) -> None:
    """A file that was not handed over has to be here already, and whole."""
    path = blobs.path(file["sha256"])
    blobs.check_size(file["sha256"], file["size"], where=file["path"])
    if sha256_file(path) != file["sha256"]:
        raise VerificationError(
            f"{file['path']} is corrupt in this registry, and was not sent along",
            where=str(path),
            fix="fetch it with all its files",
        )


def _sizes(expected: int, found: int) -> str:
    return f"expected {expected:,} bytes, found {found:,}"
