"""Entries as OCI artifacts, so that common tools can store and carry them.

An entry is an image manifest. Its `config` is our manifest, to the byte; its `layers` are the files, each with its path
as title. What is attached to an entry is an image manifest of its own whose `subject` is the entry's. An image layout
holds any number of them:

oci-layout               {"imageLayoutVersion":"1.0.0"}
index.json               descriptors of the image manifests: entries, each followed by its attachments
blobs/sha256/ab12…       everything else, under its digest

There is no time and no place in it: the same entries give the same bytes. Source: OCI image specification 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from mwactl.errors import IncompatibleError, MwactlError, UsageError
from mwactl.files import canonical_json, sha256_bytes
from mwactl.registry.attachments import Attachments
from mwactl.registry.blobs import BlobStore, is_digest
from mwactl.registry.entry import Entry
from mwactl.registry.reference import checked_name
from mwactl.registry.staging import Source, chunks_of, size_of
from mwactl.registry.untrusted import MAX_JSON_BYTES, fail, parse_untrusted

LAYOUT_FILE, INDEX_FILE, BLOBS = "oci-layout", "index.json", "blobs/sha256"
LAYOUT_VERSION = "1.0.0"

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
IMAGE_TYPE = "application/vnd.oci.image.manifest.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
MANIFEST_TYPE = "application/vnd.mwactl.manifest.v1+json"
ATTACHMENT_TYPE = "application/vnd.mwactl.attachment.v1+json"

TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
REF_NAME = "org.opencontainers.image.ref.name"

_EMPTY = b"{}"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_MAX_JSON_TOTAL_BYTES = 8 * MAX_JSON_BYTES  # of all documents in a layout; they are kept in memory


@dataclass(frozen=True)
class Descriptor:
    """How one document refers to the bytes of another."""

    media_type: str
    """What the bytes are."""
    digest: str
    """Their SHA-256, in hexadecimal."""
    size: int
    """How many there are."""
    artifact_type: str | None = None
    """What the artifact is, where the bytes are an image manifest."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """What is said about them."""

    def as_json(self) -> dict[str, Any]:
        """The descriptor as the specification spells it."""
        said: dict[str, Any] = {"mediaType": self.media_type, "digest": f"sha256:{self.digest}", "size": self.size}
        if self.artifact_type is not None:
            said["artifactType"] = self.artifact_type
        return said | ({"annotations": dict(self.annotations)} if self.annotations else {})


# -- writing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Artifact:
    """An entry, or something attached to one, with everything that a place needs to hold it."""

    manifest: bytes
    """The image manifest."""
    blobs: Mapping[str, Source]
    """SHA-256 → config and layers."""
    artifact_type: str
    """What it is."""
    tag: str | None = None
    """What a tool may call it: `coco-3`; attachments have none."""

    @cached_property
    def descriptor(self) -> Descriptor:
        """How an index refers to it."""
        annotations = {REF_NAME: self.tag} if self.tag else {}
        digest = sha256_bytes(self.manifest)
        return Descriptor(IMAGE_TYPE, digest, len(self.manifest), self.artifact_type, annotations)


def artifact_type(kind: str) -> str:
    """The artifact type of an entry or an attachment: `application/vnd.mwactl.adapter.v1`."""
    return f"application/vnd.mwactl.{kind}.v1"


def entry_artifacts(root: Path, entry: Entry, *, called: tuple[str, int] | None = None) -> list[Artifact]:
    """An entry of the registry at `root`, and after it what is attached to it; none of it holds on one machine only.

    The files are not read: whoever copies them compares their bytes with the digests.

    Args:
        root: The registry.
        entry: Which.
        called: The name and the number it goes by there, where these are not its own.

    Raises:
        VerificationError: The manifest or an attachment is corrupt.
        UsageError: The entry's kind cannot be a media type.
        MwactlError: A document is longer than anyone would take it.
    """
    blobs = BlobStore(root)
    kind = checked_name(entry.manifest["kind"])
    manifest = _sendable(blobs.read(entry.digest, where=f"the manifest of {entry.reference}"), entry.reference)
    files = entry.manifest["files"]
    layers = [Descriptor(_media_type(file), file["sha256"], file["size"], annotations={TITLE: file["path"]})
              for file in files] or [_describe(_EMPTY, EMPTY_TYPE)]  # fmt: skip
    config = _describe(manifest, MANIFEST_TYPE)
    name, version = called or (entry.name, entry.version)
    annotations = {TITLE: name, VERSION: str(version)}
    stored: dict[str, Source] = {file["sha256"]: blobs.path(file["sha256"]) for file in files}
    contents = stored or {layers[0].digest: _EMPTY}
    image = _image(artifact_type(kind), config, layers, annotations)
    whole = Artifact(image, {entry.digest: manifest, **contents}, artifact_type(kind), f"{name}-{version}")
    attachments = Attachments(root, blobs, entry).portable()
    return [whole, *(_attachment(whole, entry, *attachment) for attachment in attachments)]


def _attachment(whole: Artifact, entry: Entry, kind: str, number: int, data: bytes) -> Artifact:
    layer = _describe(_sendable(data, f"{kind} {number} of {entry.reference}"), ATTACHMENT_TYPE, f"{kind}.json")
    config = _describe(_EMPTY, EMPTY_TYPE)
    subject = Descriptor(IMAGE_TYPE, whole.descriptor.digest, whole.descriptor.size)
    image = _image(artifact_type(kind), config, [layer], {TITLE: kind, VERSION: str(number)}, subject)
    return Artifact(image, {config.digest: _EMPTY, layer.digest: data}, artifact_type(kind))


def layout_files(artifacts: Sequence[Artifact]) -> dict[str, Source]:
    """Every file of the image layout with these artifacts: path → content, sorted by path.

    Raises:
        MwactlError: The documents are longer than anyone would take them.
    """
    descriptors = [artifact.descriptor for artifact in artifacts]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [each.as_json() for each in descriptors]}
    files: dict[str, Source] = {
        LAYOUT_FILE: canonical_json({"imageLayoutVersion": LAYOUT_VERSION}),
        INDEX_FILE: _sendable(canonical_json(index), "the index"),
    }
    for artifact in artifacts:
        files[blob_path(artifact.descriptor.digest)] = artifact.manifest
        files |= {blob_path(digest): source for digest, source in artifact.blobs.items()}
    documents = [source for artifact in artifacts for source in artifact.blobs.values() if isinstance(source, bytes)]
    documents += [artifact.manifest for artifact in artifacts]
    _check_length(sum(map(len, documents)), "the documents", _MAX_JSON_TOTAL_BYTES)
    return dict(sorted(files.items()))


def blob_path(digest: str) -> str:
    """Where a blob lies in an image layout."""
    return f"{BLOBS}/{digest}"


def _image(
    kind: str, config: Descriptor, layers: Sequence[Descriptor], annotations: Mapping[str, str],
    subject: Descriptor | None = None,
) -> bytes:  # fmt: skip
    image = {
        "schemaVersion": 2,
        "mediaType": IMAGE_TYPE,
        "artifactType": kind,
        "config": config.as_json(),
        "layers": [layer.as_json() for layer in layers],
        "annotations": dict(annotations),
    }
    return canonical_json(image if subject is None else image | {"subject": subject.as_json()})


def _describe(data: bytes, media_type: str, title: str | None = None) -> Descriptor:
    return Descriptor(media_type, sha256_bytes(data), len(data), annotations={TITLE: title} if title else {})


def _media_type(file: Mapping[str, Any]) -> str:
    said = file.get("media_type")
    return said if isinstance(said, str) and _MEDIA_TYPE.fullmatch(said) else "application/octet-stream"


def _sendable(data: bytes, what: str) -> bytes:
    _check_length(len(data), what, MAX_JSON_BYTES)
    return data


def _check_length(length: int, what: str, limit: int) -> None:
    if length > limit:
        why = f"{length:,} bytes of JSON, and nobody reads more than {limit:,} from elsewhere"
        raise MwactlError("too long to be sent", where=what, why=why, fix="take fewer versions at once")


# -- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """What an image manifest from elsewhere says: the form is right, the bytes it refers to are still unseen."""

    artifact_type: str
    """What it is."""
    config: Descriptor
    """Our manifest, or nothing for an attachment."""
    layers: tuple[Descriptor, ...]
    """The files (paths in their titles), or the one attached document."""
    title: str
    """The name that the entry had, or the kind of the attachment."""
    version: int
    """The number that it had."""
    subject: str | None
    """For an attachment, the digest of the image manifest that it is about."""


@dataclass(frozen=True)
class Parcel:
    """An entry that was found in a layout, ready for `Registry.receive`."""

    name: str
    """The name it had."""
    version: int
    """The number it had."""
    digest: str
    """Its manifest's SHA-256."""
    manifest: bytes
    """The manifest, verified, to the byte."""
    blobs: Mapping[str, Source]
    """SHA-256 → file; not hashed yet, sizes checked."""
    attachments: tuple[bytes, ...]
    """What is attached to it, verified; oldest first within their kind."""


def parse_image(data: bytes, *, where: str) -> Image:
    """Read an image manifest from elsewhere.

    Raises:
        VerificationError: It is none, or not one of ours.
    """
    image = parse_untrusted(data, what="an image manifest", where=where)
    layers, annotations = image.get("layers"), image.get("annotations")
    if image.get("schemaVersion") != 2 or image.get("mediaType") != IMAGE_TYPE or not isinstance(layers, list):
        fail("an image manifest has another form", where=where, why=f"it is no {IMAGE_TYPE}")
    kind = image.get("artifactType")
    if not isinstance(kind, str) or not isinstance(annotations, dict):
        fail("an image manifest is no adapter", where=where, why="it lacks artifactType or annotations")
    title, version = annotations.get(TITLE), annotations.get(VERSION)
    if not _is_name(title) or not isinstance(version, str) or not _VERSION.fullmatch(version):
        fail("an image manifest has no name and version", where=where, why=f"it says {title!r} and {version!r}")
    subject = None if image.get("subject") is None else parse_descriptor(image["subject"], where=where).digest
    config = parse_descriptor(image.get("config"), where=where)
    parsed = tuple(parse_descriptor(layer, where=where) for layer in layers)
    is_attachment = subject is not None
    if config.media_type != (EMPTY_TYPE if is_attachment else MANIFEST_TYPE):
        fail("an image manifest is no adapter", where=where, why=f"its config is {config.media_type}")
    if is_attachment and ([layer.media_type for layer in parsed] != [ATTACHMENT_TYPE] or kind != artifact_type(title)):
        fail("an attachment has another form", where=where, why=f"it is not one {ATTACHMENT_TYPE}")
    return Image(kind, config, parsed, title, int(version), subject)


def parse_descriptor(said: object, *, where: str) -> Descriptor:
    """Read a descriptor from elsewhere.

    Raises:
        VerificationError: It is none.
    """
    if not isinstance(said, dict):
        fail("a descriptor is missing", where=where)
    media_type, digest, size = said.get("mediaType"), said.get("digest"), said.get("size")
    annotations, kind = said.get("annotations", {}), said.get("artifactType")
    algorithm, _, hexadecimal = digest.partition(":") if isinstance(digest, str) else ("", "", "")
    if not isinstance(media_type, str) or algorithm != "sha256" or not is_digest(hexadecimal):
        fail("a descriptor is malformed", where=where, why=f"mediaType {media_type!r}, digest {digest!r}")
    if type(size) is not int or size < 0:
        fail("a descriptor is malformed", where=where, why=f"size {size!r}")
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        fail("a descriptor is malformed", where=where, why="its annotations are no texts")
    return Descriptor(media_type, hexadecimal, size, kind if isinstance(kind, str) else None, annotations)


def read_layout(files: Mapping[str, Source], *, where: str) -> list[Parcel]:
    """Find the entries of an image layout, in the order of its index.

    Every document is read and verified; the files of the entries are not, but each is there with the size that was
    promised, and there is nothing else.

    Args:
        files: Path within the layout → content (`directory_files` finds them in a directory).
        where: What the layout is, for the errors.

    Raises:
        VerificationError: It is none, or something in it does not fit.
        IncompatibleError: It is of a newer form.
    """
    return _LayoutReader(files, where).parcels()


def directory_files(directory: Path) -> dict[str, Source]:
    """The files of an image layout that is a directory, for `read_layout`."""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path for path in found}


class _LayoutReader:
    """Reads a layout once, counting what it reads: what points to one document a thousand times is refused."""

    def __init__(self, files: Mapping[str, Source], where: str) -> None:
        self._files = files
        self._where = where
        self._unused = set(files)
        self._json_bytes = 0

    def parcels(self) -> list[Parcel]:
        self._check_version()
        images = self._images()
        attached: dict[str, list[Image]] = {digest: [] for digest, image in images.items() if image.subject is None}
        for image in images.values():
            if image.subject is not None:
                if image.subject not in attached:
                    fail("something is attached to nothing here", where=self._where, why=f"sha256:{image.subject}")
                attached[image.subject].append(image)
        parcels = [self._parcel(images[digest], attachments) for digest, attachments in attached.items()]
        if not parcels:
            fail("there is no adapter in it", where=self._where)
        if self._unused:
            fail(f"{min(self._unused)} is there, but nothing refers to it", where=self._where)
        return parcels

    def _check_version(self) -> None:
        layout = self._document(LAYOUT_FILE, "the layout file")
        if layout.get("imageLayoutVersion") != LAYOUT_VERSION:
            raise IncompatibleError(
                "this is an image layout of another version",
                where=self._where,
                why=f"version {layout.get('imageLayoutVersion')!r}, this version reads {LAYOUT_VERSION}",
                fix="pip install --upgrade mwactl",
            )

    def _images(self) -> dict[str, Image]:
        """Digest → image manifest, in the order of the index."""
        index = self._document(INDEX_FILE, "the index")
        manifests = index.get("manifests")
        if index.get("schemaVersion") != 2 or not isinstance(manifests, list):
            fail("the index has another form", where=self._where, why=f"it is no {INDEX_TYPE}")
        images: dict[str, Image] = {}
        for said in manifests:
            descriptor = parse_descriptor(said, where=self._where)
            if descriptor.media_type != IMAGE_TYPE:
                fail("the index refers to something else", where=self._where, why=f"a {descriptor.media_type}")
            if descriptor.digest in images:
                fail("the index refers to one image manifest twice", where=self._where)
            images[descriptor.digest] = parse_image(self._blob(descriptor), where=self._where)
        return images

    def _parcel(self, image: Image, attachments: Iterable[Image]) -> Parcel:
        manifest = self._blob(image.config)
        said = parse_untrusted(manifest, what="the manifest", where=self._where)
        kind = said.get("kind")
        if image.artifact_type != artifact_type(str(kind)):
            fail("an image manifest and its config differ", where=self._where, why=f"{image.artifact_type}, {kind!r}")
        layers = [layer for layer in image.layers if layer.media_type != EMPTY_TYPE]
        _check_layers(layers, said.get("files"), f"{image.title}@{image.version}", self._where)
        for layer in image.layers:
            self._source(layer)
        ordered = sorted(attachments, key=lambda attachment: (attachment.title, attachment.version))
        return Parcel(
            image.title,
            image.version,
            image.config.digest,
            manifest,
            {layer.digest: self._source(layer) for layer in layers},
            tuple(self._attachment(attachment) for attachment in ordered),
        )

    def _attachment(self, image: Image) -> bytes:
        self._blob(image.config)
        return self._blob(image.layers[0])

    def _document(self, path: str, what: str) -> dict[str, Any]:
        if path not in self._files:
            fail(f"{what} is missing", where=self._where, why="so this is no OCI image layout")
        self._unused.discard(path)
        return parse_untrusted(self._read(self._files[path], what), what=what, where=self._where)

    def _source(self, descriptor: Descriptor) -> Source:
        path = blob_path(descriptor.digest)
        if path not in self._files:
            fail("a blob is missing", where=self._where, why=f"there is no {path}")
        self._unused.discard(path)
        source = self._files[path]
        if size_of(source) != descriptor.size:
            why = f"{descriptor.size:,} bytes were promised, it has {size_of(source):,}"
            fail(f"{path} has another size", where=self._where, why=why)
        return source

    def _blob(self, descriptor: Descriptor) -> bytes:
        """The verified bytes of a document."""
        data = self._read(self._source(descriptor), "a document")
        if sha256_bytes(data) != descriptor.digest:
            fail(f"{blob_path(descriptor.digest)} is not what its digest says", where=self._where)
        return data

    def _read(self, source: Source, what: str) -> bytes:
        self._json_bytes += size_of(source)
        if size_of(source) > MAX_JSON_BYTES or self._json_bytes > _MAX_JSON_TOTAL_BYTES:
            why = f"at most {MAX_JSON_BYTES:,} bytes each and {_MAX_JSON_TOTAL_BYTES:,} together are read"
            fail(f"{what} is too long", where=self._where, why=why)
        return b"".join(chunks_of(source))


def _check_layers(layers: Sequence[Descriptor], files: object, what: str, where: str) -> None:
    """The layers are the manifest's files, no more and no fewer."""
    records = files if isinstance(files, list) and all(isinstance(file, dict) for file in files) else []
    promised = sorted((str(file.get("path")), str(file.get("sha256")), file.get("size")) for file in records)
    found = sorted((layer.annotations.get(TITLE, ""), layer.digest, layer.size) for layer in layers)
    if promised != found:
        fail(f"the layers are not the files of {what}", where=where, why=f"{len(found)} layers, {len(promised)} files")


def _is_name(text: object) -> TypeGuard[str]:
    try:
        return isinstance(text, str) and checked_name(text) == text
    except UsageError:
        return False
