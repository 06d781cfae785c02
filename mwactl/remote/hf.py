"""The Hugging Face Hub as a place for adapters: a model repository that people can read, and one commit a push.

The files lie under their own paths. Beside them are `mwactl-manifest.json`, the manifest to the byte, and
`mwactl-attachments/`, where the name of each document has its kind and its digest.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mwactl.errors import MwactlError, NotFoundError, UsageError
from mwactl.files import sha256_bytes, sha256_file
from mwactl.progress import Progress, Reporter
from mwactl.registry import Entry
from mwactl.registry.attachments import Attachments
from mwactl.registry.blobs import BlobStore
from mwactl.registry.staging import size_of
from mwactl.registry.untrusted import MAX_JSON_BYTES, fail, parse_untrusted
from mwactl.remote.address import HubAddress
from mwactl.remote.client import Http, origin_of, read_all
from mwactl.remote.fetch import Wanted
from mwactl.remote.hf_errors import naming_hub_errors, strange_answer
from mwactl.remote.offer import MAX_ATTACHMENTS, Documents, Item, Offer, Sent, Shipment, check_count
from mwactl.remote.refusal import Door, naming_refusals

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

MANIFEST = "mwactl-manifest.json"
ATTACHMENTS = "mwactl-attachments"
README = "README.md"

_ATTACHMENT = re.compile(rf"{ATTACHMENTS}/(?P<number>[0-9]{{4,9}})-[a-z0-9._-]+-(?P<digest>[0-9a-f]{{64}})\.json")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SEAL = "<!-- card by mwactl, as it was made: sha256:%s -->"
_OWN = frozenset({MANIFEST, ".gitattributes"})


@dataclass(frozen=True)
class _Commit:
    """What a push changes."""

    files: Mapping[str, Path | bytes]
    """Path in the repository → content."""
    stale: tuple[str, ...]
    """Files of the version that was there before, and is not the one that is pushed."""


class HubRemote:
    """One model repository.

    Args:
        address: Which.
        public: Whether a push that has to make the repository makes one that everyone can see.
        reporter: Hears what is tried again.
    """

    def __init__(self, address: HubAddress, *, public: bool, reporter: Reporter) -> None:
        from huggingface_hub import HfApi, get_token

        self.address = address
        self._public = public
        self._reporter = reporter
        # The library reads HF_ENDPOINT when it is imported; who sets it later means it too.
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="mwactl")
        token = get_token()
        self.http = Http(origin_of(self._api.endpoint), _Token(token), reporter)
        self.door = Door(
            str(address),
            token is not None,
            login="hf auth login   (or set HF_TOKEN)",
            access=f"ask for access at {self._api.endpoint}/{address.repository}, or use a token that may do this",
        )

    # -- pushing -----------------------------------------------------------------------------------------------

    def plan(self, shipment: Shipment) -> list[Item]:
        """What a push would send: every file of the commit."""
        info = self._open_for_push(shipment.entry)
        return _items(self._commit(shipment, info), info)

    def push(self, shipment: Shipment, progress: Progress) -> Sent:
        """Send an entry and what is attached to it in one commit; the repository is made if there is none."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars()  # ours is shown; and `-q` means it
        info = self._open_for_push(shipment.entry)
        repository = self.address.repository
        if info is None:
            with naming_hub_errors(self.door):
                self._api.create_repo(repository, private=not self._public, exist_ok=True)
            info = self._info()
        commit = self._commit(shipment, info)
        items = tuple(_items(commit, info))
        if not commit.stale and all(item.there for item in items):
            return Sent(str(self.address), f"hf://{repository}@{info.sha}", items)
        operations: list[Any] = [
            CommitOperationAdd(path, str(source) if isinstance(source, Path) else source)
            for path, source in commit.files.items()
        ]
        operations += [CommitOperationDelete(path, is_folder=False) for path in commit.stale]
        with naming_hub_errors(self.door, sends_card=True):
            # The parent makes it fail where somebody else pushed meanwhile, instead of mixing two versions.
            done = self._api.create_commit(
                repository,
                operations,
                commit_message=f"Push {shipment.entry.reference} with mwactl",
                commit_description=f"manifest sha256:{shipment.entry.digest}",
                parent_commit=info.sha,
            )
        progress.advance(shipment.entry.size_bytes)
        return Sent(str(self.address), f"hf://{repository}@{done.oid}", items)

    def _open_for_push(self, entry: Entry) -> ModelInfo | None:
        """What is in the repository; None where there is none yet."""
        if self.address.revision is not None:
            raise UsageError(
                "a push goes to the main branch",
                where=str(self.address),
                fix=f"leave out the revision: hf://{self.address.repository}",
            )
        _check_paths(entry)
        if not self.door.is_known:
            raise MwactlError("a push needs a login", where=str(self.address), fix=self.door.login)
        try:
            return self._info()
        except NotFoundError:
            return None

    def _info(self) -> ModelInfo:
        """What is in the repository, in a form that makes sense."""
        with naming_hub_errors(self.door):
            info = self._api.model_info(self.address.repository, revision=self.address.revision, files_metadata=True)
        paths = [sibling.rfilename for sibling in info.siblings or ()]
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise strange_answer(self.door, f"its commit is {info.sha!r}"[:200])
        if not all(isinstance(path, str) for path in paths):
            raise strange_answer(self.door, "its files have no names")
        return info

    def _commit(self, shipment: Shipment, info: ModelInfo | None) -> _Commit:
        there = {} if info is None else _siblings(info)
        root, entry = shipment.root, shipment.entry
        blobs = BlobStore(root)
        files: dict[str, Path | bytes] = {}
        for file in entry.manifest["files"]:
            files[file["path"]] = blobs.path(file["sha256"])
        manifest = blobs.read(entry.digest, where=f"the manifest of {entry.reference}")
        old_manifest = self._document(MANIFEST, info) if info is not None and MANIFEST in there else None
        attached = {path: found for path in there if (found := _ATTACHMENT.fullmatch(path))}
        # Somebody else's results about the same content stay; those about another version go with it.
        kept = attached if old_manifest == manifest else {}
        known = {found["digest"] for found in kept.values()}
        number = max((int(found["number"]) for found in kept.values()), default=0)
        for kind, _, data in Attachments(root, blobs, entry).portable():
            digest = sha256_bytes(data)
            if digest not in known:
                number += 1
                files[f"{ATTACHMENTS}/{number:04}-{kind}-{digest}.json"] = data
        check_count(len(kept) + sum(path.startswith(f"{ATTACHMENTS}/") for path in files), entry)
        files[MANIFEST] = manifest
        before = {*attached, *_paths_in(old_manifest, where=str(self.address))} & there.keys()
        if shipment.readme is not None and README not in files:
            if info is None or README not in there or README in before or _is_sealed(self._document(README, info)):
                files[README] = _sealed(shipment.readme)
            else:
                self._reporter.warn(f"{README} there was written by somebody: it stays (mwactl card {entry.reference})")
        return _Commit(files, tuple(sorted(before - files.keys() - kept.keys())))

    # -- pulling -----------------------------------------------------------------------------------------------

    def offer(self) -> Offer:
        """What lies in the repository: its documents are here, its files are still to be fetched.

        Raises:
            NotFoundError: There is no such repository or revision, or no adapter in it.
            VerificationError: An attachment is not what its name says.
            MwactlError: The Hub cannot be reached, or refuses.
        """
        info = self._info()
        if MANIFEST not in _siblings(info):
            raise NotFoundError(
                "there is no adapter of mwactl in this repository",
                where=str(self.address),
                why=f"it has no {MANIFEST}",
                fix="check the address, or the revision after @",
            )
        return Offer(
            self.address.name,
            self._document(MANIFEST, info),
            self._attached(info),
            lambda file: Wanted(self._url(file["path"], info), file["sha256"], file["size"], file["path"]),
        )

    def _attached(self, info: ModelInfo) -> tuple[bytes, ...]:
        found = [found for path in _siblings(info) if (found := _ATTACHMENT.fullmatch(path))]
        if len(found) > MAX_ATTACHMENTS:
            why = f"{len(found):,} documents, at most {MAX_ATTACHMENTS:,}"
            fail("too much is attached to it", where=str(self.address), why=why)
        documents, counted = [], Documents(str(self.address))
        for each in sorted(found, key=lambda each: int(each["number"])):
            data = self._document(each[0], info)
            if sha256_bytes(data) != each["digest"]:
                fail("an attachment is not what its name says", where=f"{self.address} {each[0]}")
            documents.append(counted.take(data))
        return tuple(documents)

    def _document(self, path: str, info: ModelInfo) -> bytes:
        where, url = f"{self.address} {path}", self._url(path, info)

        def ask() -> bytes:
            with self.http.exchange("GET", url) as response:
                return read_all(response, MAX_JSON_BYTES, where=where)

        with naming_refusals(self.door):
            return self.http.persist(ask, where=where)

    def _url(self, path: str, info: ModelInfo) -> str:
        """Where a file of the repository is, at the commit that was looked at."""
        return f"{self._api.endpoint}/{self.address.repository}/resolve/{info.sha}/{quote(path)}"


class _Token:
    """Says who we are at once: the Hub does not ask."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def header(self) -> str | None:
        return f"Bearer {self._token}" if self._token else None

    def challenged(self, challenge: str) -> bool:
        return False


def _check_paths(entry: Entry) -> None:
    for file in entry.manifest["files"]:
        if file["path"] in _OWN or file["path"].startswith(f"{ATTACHMENTS}/"):
            raise UsageError(
                f"{entry.reference} cannot be pushed to the Hub",
                why=f"its file {file['path']} would be where the repository keeps something else",
                fix=f"mwactl registry pack {entry.reference} -o FILE.tar, or push it to an OCI registry",
            )


def _sealed(card: bytes) -> bytes:
    """A card with a last line that no longer fits when somebody changes anything above it."""
    body = card.rstrip() + b"\n\n"
    return body + (_SEAL % sha256_bytes(body)).encode() + b"\n"


def _is_sealed(readme: bytes) -> bool:
    """Whether this is a card that mwactl made and nobody touched."""
    lines = readme.splitlines(keepends=True)
    return bool(lines) and lines[-1].decode("utf-8", "replace").strip() == _SEAL % sha256_bytes(b"".join(lines[:-1]))


def _siblings(info: ModelInfo) -> dict[str, RepoSibling]:
    return {sibling.rfilename: sibling for sibling in info.siblings or ()}


def _items(commit: _Commit, info: ModelInfo | None) -> list[Item]:
    there = {} if info is None else _siblings(info)
    items = []
    for path, source in commit.files.items():
        digest = sha256_file(source) if isinstance(source, Path) else sha256_bytes(source)
        items.append(Item(path, digest, size_of(source), _is_same(there.get(path), source, digest)))
    return items


def _is_same(sibling: RepoSibling | None, source: Path | bytes, digest: str) -> bool:
    """Whether a file of the repository has this content: large ones are known by SHA-256, others as git knows them."""
    if sibling is None or sibling.size != size_of(source):
        return False
    if sibling.lfs is not None:
        return bool(sibling.lfs.sha256 == digest)
    data = source.read_bytes() if isinstance(source, Path) else source
    return sibling.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _paths_in(manifest: bytes | None, *, where: str) -> set[str]:
    """The files of the version that was there before; none where its manifest makes no sense."""
    if manifest is None:
        return set()
    try:
        files = parse_untrusted(manifest, what="the manifest that is there", where=where).get("files")
    except MwactlError:
        return set()
    records = files if isinstance(files, list) else []
    return {str(record.get("path")) for record in records if isinstance(record, dict)}
