"""The registry: immutable content, small numbered pointers to it, and nothing that is trusted unverified.

layout.json                               {"layout": 1}
lock                                      permanent, never deleted
blobs/sha256/ab/ab12…                     content and manifests, read-only, named by their SHA-256
refs/NAME/versions/3                      the manifest's digest
refs/NAME/attached/ab12…/evaluation/1     the digest of a result that came later
refs/NAME/log.jsonl                       history
tmp/                                      staging
quarantine/                               rotten blobs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mwactl import home
from mwactl.errors import MwactlError, NotFoundError, UsageError
from mwactl.progress import Reporter, Silent
from mwactl.registry import lookup
from mwactl.registry.attachments import Attachments, attachment_bytes
from mwactl.registry.blobs import BlobStore
from mwactl.registry.entry import BrokenEntry, Entry
from mwactl.registry.folder import NameFolder
from mwactl.registry.manifest import check_publishable, file_record, manifest_bytes, parse_manifest
from mwactl.registry.reference import checked_name, parse_reference
from mwactl.registry.writing import writing


class Registry:
    """A directory of published adapters.

    Reading takes no lock and writes nothing, so it works where writing is not allowed.

    Args:
        root: The directory; it is created by the first write.
        reporter: Hears when another process has to be waited for.

    Raises:
        UsageError: `root` is a file.
    """

    lock_timeout_s = 60.0
    """How long a write waits for another one, in seconds."""

    def __init__(self, root: Path, *, reporter: Reporter | None = None) -> None:
        if root.exists() and not root.is_dir():
            raise UsageError("the registry is no directory", where=str(root), fix="set MWACTL_REGISTRY=/a/directory")
        self.root = root
        self._reporter = reporter or Silent()
        self._blobs = BlobStore(root)

    @classmethod
    def default(cls, *, reporter: Reporter | None = None) -> Registry:
        """The user's registry (`MWACTL_REGISTRY`, or `registry` in `MWACTL_HOME`)."""
        return cls(home.registry_path(), reporter=reporter)

    # -- writing -----------------------------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        *,
        kind: str,
        files: Mapping[str, Path | bytes],
        facts: Mapping[str, Any],
        parents: Sequence[str] = (),
        verb: str,
    ) -> Entry:
        """Publish files and facts as the next version of a name.

        The version appears in one step, when everything it needs is on the disk. Publishing what the newest version
        already holds gives that version, and replaces blobs of it that have rotted.

        Args:
            name: The adapter's name.
            kind: What it is: `adapter`, `onnx`, …
            files: Path within the entry → a file, or bytes.
            facts: What else the manifest says: anything JSON can say, no times (equal content has an equal digest).
            parents: Manifest digests of the entries that this one was made from.
            verb: What made it, for the history: `train`, `merge`, …

        Raises:
            UsageError: A name or a path that cannot be used.
            NotFoundError: A file to publish is not there.
            ResourceError: No space, or the lock was not free in time.
            ValueError: The facts are not JSON, or clash with the manifest's own keys.
        """
        name = checked_name(name)
        for path in files:
            check_publishable(path)
        manifest_bytes(kind, parents, (), facts)  # a mistake in the facts shows before anything is written
        need_bytes = sum(map(_size, files.values()))
        with self._writing(need_bytes):
            records = [file_record(path, *self._blobs.put(source)) for path, source in files.items()]
            digest, _ = self._blobs.put(manifest_bytes(kind, parents, records, facts))
            version = self._folder(name).add(digest, verb)
        return self._load(self._folder(name), version)

    def attach(self, entry: Entry, kind: str, document: Mapping[str, Any]) -> str:
        """Attach a result that came after publication; the manifest and its digest stay as they are.

        Args:
            entry: What the result is about.
            kind: What it is: `evaluation`, …
            document: Anything JSON can say. The same document as the newest of its kind is not attached again.

        Returns:
            The SHA-256 of the attachment.

        Raises:
            UsageError: `kind` cannot be a name.
            ResourceError: No space, or the lock was not free in time.
            ValueError: The document is not JSON.
        """
        kind = checked_name(kind)
        data = attachment_bytes(entry.digest, kind, document)
        with self._writing(len(data)):
            digest, _ = self._blobs.put(data)
            pointers = Attachments(self.root, self._blobs, entry).pointers(kind)
            numbers = pointers.numbers()
            if not numbers or pointers.intact_digest(numbers[-1], "") != digest:
                number = pointers.add(digest)
                new = {"version": entry.version, "digest": entry.digest, "attachment": kind, "attached": digest}
                self._folder(entry.name).record("attach", pointers.time_ns(number), old=None, new=new)
        return digest

    # -- reading -----------------------------------------------------------------------------------------------

    def resolve(self, reference: str | None) -> Entry:
        """Find a version; its manifest is verified, its files are there and have the right sizes.

        Args:
            reference: `name` (the newest), `name@3`, `name@sha256:ab12cdef`; None is the newest of all names.

        Raises:
            UsageError: The text is no reference, or fits two contents.
            NotFoundError: There is no such version.
            VerificationError: It is there, and corrupt.
        """
        parsed = None if reference is None else parse_reference(reference)
        return self._load(*lookup.find({name: self._folder(name) for name in self.names()}, parsed))

    def names(self) -> list[str]:
        """All names, sorted."""
        refs = self.root / "refs"
        return sorted(path.name for path in refs.iterdir() if (path / "versions").is_dir()) if refs.is_dir() else []

    def entries(self, name: str | None = None) -> list[Entry | BrokenEntry]:
        """All versions (of one name), by name, newest first; one that cannot be read appears as a `BrokenEntry`."""
        found: list[Entry | BrokenEntry] = []
        for each in self.names() if name is None else [name]:
            folder = self._folder(each)
            for version in reversed(folder.versions.numbers()):
                try:
                    found.append(self._load(folder, version))
                except MwactlError as error:
                    found.append(BrokenEntry(each, version, "; ".join(filter(None, (error.what, error.why)))))
        return found

    def read(self, entry: Entry, path: str) -> bytes:
        """The verified bytes of one file of an entry.

        Raises:
            NotFoundError: The entry has no such file.
            VerificationError: The bytes are not those that were published.
        """
        for file in entry.manifest["files"]:
            if file["path"] == path:
                return self._blobs.read(file["sha256"], where=f"{path} of {entry.reference}")
        names = ", ".join(file["path"] for file in entry.manifest["files"]) or "no files"
        raise NotFoundError(
            f"{entry.reference} has no file {path!r}",
            why=f"it has {names}",
            fix=f"mwactl registry show {entry.reference}",
        )

    def attachments(self, entry: Entry, kind: str | None = None) -> list[dict[str, Any]]:
        """The results attached to an entry, oldest first within their kind.

        Returns:
            A dictionary each: `kind`, `digest`, `created` (ISO 8601), `document`. One that cannot be read has an empty
            document, and `problem` says why; it hides no other.
        """
        return Attachments(self.root, self._blobs, entry).read(kind)

    def lineage(self, entry: Entry) -> list[dict[str, Any]]:
        """The manifests of an entry and of its ancestors, nearest first; each has its own `digest` added.

        A parent that is no longer here appears as `{"missing": digest}`, a corrupt one with `problem` too.
        """
        chain: list[dict[str, Any]] = [entry.manifest | {"digest": entry.digest}]
        seen = {entry.digest}
        for manifest in chain:  # grows while it is walked: breadth first
            for parent in manifest.get("parents", ()):
                if parent not in seen:
                    seen.add(parent)
                    chain.append(self._ancestor(parent))
        return chain

    def references(self) -> dict[str, list[str]]:
        """Manifest digest → the references (`name@3`) that hold it; corrupt pointers are left out."""
        found: dict[str, list[str]] = {}
        for name in self.names():
            versions = self._folder(name).versions
            for version in versions.numbers():
                if digest := versions.intact_digest(version, ""):
                    found.setdefault(digest, []).append(f"{name}@{version}")
        return found

    def history(self, name: str) -> list[dict[str, Any]]:
        """The log of a name, oldest first: time, user, host, verb, old → new; `{"problem": …}` for a damaged line."""
        return self._folder(name).history.records()

    # -- inside ------------------------------------------------------------------------------------------------

    def _writing(self, need_bytes: int) -> AbstractContextManager[None]:
        return writing(self.root, self._reporter, need_bytes=need_bytes, lock_timeout_s=self.lock_timeout_s)

    def _load(self, folder: NameFolder, version: int) -> Entry:
        reference = f"{folder.name}@{version}"
        digest = folder.versions.digest(version)
        manifest = parse_manifest(self._blobs.read(digest, where=f"the manifest of {reference}"), where=reference)
        for file in manifest["files"]:
            self._blobs.check_size(file["sha256"], file["size"], where=f"{file['path']} of {reference}")
        return Entry(folder.name, version, digest, manifest, folder.created(version))

    def _ancestor(self, digest: str) -> dict[str, Any]:
        if not self._blobs.path(digest).exists():
            return {"missing": digest}
        try:
            data = self._blobs.read(digest, where=f"the manifest sha256:{digest[:12]}…")
            return parse_manifest(data, where=f"sha256:{digest[:12]}…") | {"digest": digest}
        except MwactlError as error:
            return {"missing": digest, "problem": str(error)}

    def _folder(self, name: str) -> NameFolder:
        return NameFolder(self.root, name)


def _size(source: Path | bytes) -> int:
    """Bytes that a file to publish takes."""
    if isinstance(source, bytes):
        return len(source)
    if not source.is_file():
        raise NotFoundError("a file to publish is not there", where=str(source), fix="check the path")
    return source.stat().st_size
