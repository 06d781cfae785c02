"""The registry: immutable content, small numbered pointers to it, and nothing that is trusted unverified.

layout.json                               {"layout": 1}
lock                                      permanent, never deleted
blobs/sha256/ab/ab12…                     content and manifests, read-only, named by their SHA-256
refs/NAME/versions/3                      the manifest's digest; renamed to 3.removed when it is removed
refs/NAME/aliases/prod                    version and manifest digest, replaced as a whole
refs/NAME/tags.json                       {"3": {"key": "value"}, "sha256": …}, replaced as a whole
refs/NAME/attached/ab12…/evaluation/1     the digest of a result that came later
refs/NAME/log.jsonl                       history
tmp/                                      staging
quarantine/                               rotten blobs, and what `verify --repair` replaced; never deleted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from mwactl import home
from mwactl.errors import MwactlError, NotFoundError, UsageError
from mwactl.progress import Reporter, Silent
from mwactl.registry import lookup, receive
from mwactl.registry.attachments import Attachments, attachment_bytes
from mwactl.registry.blobs import BlobStore
from mwactl.registry.change import Change
from mwactl.registry.entry import BrokenEntry, Entry
from mwactl.registry.folder import NameFolder
from mwactl.registry.folder_entry import FolderEntry, read_folder, read_folder_file, verified_folder_file
from mwactl.registry.labels import Labels, labels
from mwactl.registry.lookup import RemovedMeanwhileError
from mwactl.registry.manifest import check_publishable, file_record, manifest_bytes, parse_manifest
from mwactl.registry.reference import Reference, checked_name, parse_reference
from mwactl.registry.relabel import plan_alias, plan_tag
from mwactl.registry.removal import plan_removal, plan_restoration
from mwactl.registry.staging import Source, size_of
from mwactl.registry.writing import writing

_POINTERS_BYTES = 64 * 2**10  # an alias, the tags, a line of the history, and the blocks that they take


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
        self.reporter = reporter or Silent()
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
        files: Mapping[str, Source],
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
            files: Path within the entry → a file, bytes, or what makes them while they are written.
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

    def receive(
        self, name: str, manifest: bytes, blobs: Mapping[str, Source], attachments: Sequence[bytes] = (), *, verb: str
    ) -> Entry:
        """Take over an entry that was published elsewhere: the manifest to the byte, so that its digest stays.

        Nothing of it is visible before every byte of it is verified and on the disk. An entry that is here already,
        under any number of the name, gets what it lacks: rotten blobs and new attachments.

        Args:
            name: The name it gets here.
            manifest: The manifest's bytes.
            blobs: SHA-256 → the file with it. What is here already may be left out.
            attachments: The bytes of what is attached to it, oldest first within their kind.
            verb: How it came, for the history: `unpack`, `pull`, …

        Raises:
            UsageError: A name that cannot be used.
            VerificationError: Something is not what its digest says, makes no sense, or is a pickle.
            IncompatibleError: A newer version wrote it.
            ResourceError: No space, or the lock was not free in time.
        """
        name = checked_name(name)
        delivery = receive.check_delivery(manifest, attachments, where=f"what was sent for {name}")
        receive.check_sources(delivery, blobs, where=f"what was sent for {name}")
        with self._writing(delivery.size_bytes):
            version = receive.store(self.root, self._blobs, self._folder(name), delivery, blobs, verb)
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
        if isinstance(entry, FolderEntry):
            raise UsageError(
                f"nothing can be attached to {entry.reference}",
                why="it is a folder, not an entry of the registry",
                fix=f"mwactl registry add {entry.reference}",
            )
        with self._writing(len(data)):
            digest, _ = self._blobs.put(data)
            pointers = Attachments(self.root, self._blobs, entry).pointers(kind)
            numbers = pointers.numbers()
            if not numbers or pointers.intact_digest(numbers[-1], "") != digest:
                number = pointers.add(digest)
                new = {"version": entry.version, "digest": entry.digest, "attachment": kind, "attached": digest}
                self._folder(entry.name).record("attach", pointers.time_ns(number), old=None, new=new)
        return digest

    def alias(self, name: str, alias: str, version: int | None, *, dry_run: bool = False) -> Change:
        """Let an alias lead to a version.

        Args:
            name: The adapter's name.
            alias: The word; in a reference it comes after `:`.
            version: Where it leads from now on; None takes it away.
            dry_run: Write nothing, only say what would change.

        Raises:
            UsageError: `alias` cannot be an alias.
            NotFoundError: There is no such version, or no alias to take away.
            VerificationError: The version's pointer is corrupt.
            ResourceError: The disk is full, or the lock was not free in time.
        """
        return self._change(checked_name(name), lambda folder: [plan_alias(folder, alias, version)], dry_run)[0]

    def tag(
        self, entry: Entry | BrokenEntry, words: Mapping[str, str], unset: Sequence[str] = (), *, dry_run: bool = False
    ) -> Change:
        """Put words on a version, and take others away.

        Args:
            entry: The version.
            words: Key → value; a key that is there gets the new value.
            unset: Keys to take away.
            dry_run: Write nothing, only say what would change.

        Raises:
            UsageError: A key or a value cannot be kept, or a key is set and unset at once.
            NotFoundError: A key to take away is not there.
            VerificationError: The file of the tags is damaged; it stays as it is.
            ResourceError: The disk is full, or the lock was not free in time.
        """
        return self._change(entry.name, lambda folder: [plan_tag(folder, entry.version, words, unset)], dry_run)[0]

    def remove(self, entry: Entry | BrokenEntry, *, force: bool = False, dry_run: bool = False) -> list[Change]:
        """Remove a version; its content stays until clean-up, and `restore` brings it back until then.

        Args:
            entry: The version; it may be corrupt.
            force: Also if aliases lead to it: they go too.
            dry_run: Write nothing, only say what would change.

        Returns:
            What changes: its aliases, then the version itself.

        Raises:
            NotFoundError: It is not there any more.
            UsageError: Aliases lead to it, and nobody said `force`.
            ResourceError: The disk is full, or the lock was not free in time.
        """
        return self._change(entry.name, lambda folder: plan_removal(folder, entry.version, force=force), dry_run)

    def restore(self, name: str, version: int, *, dry_run: bool = False) -> Change:
        """Bring back a version that was removed; its aliases are set again by hand (the history tells them).

        Raises:
            NotFoundError: It was not removed, or clean-up has taken its content.
            VerificationError: Its content is corrupt.
            ResourceError: The disk is full, or the lock was not free in time.
        """

        def plan(folder: NameFolder) -> list[Change]:
            change = plan_restoration(folder, version)
            self._check_kept(change)
            return [change]

        return self._change(checked_name(name), plan, dry_run)[0]

    # -- reading -----------------------------------------------------------------------------------------------

    def resolve(self, reference: str | None) -> Entry:
        """Find a version; its manifest is verified, its files are there and have the right sizes.

        Args:
            reference: `name` (the newest), `name@3`, `name:alias`, `name@sha256:ab12cdef`, or a folder outside the
                registry (`./folder`); None is the newest of all names.

        Raises:
            UsageError: The text is no reference, or fits two contents.
            NotFoundError: There is no such version.
            VerificationError: It is there, and corrupt.
        """
        parsed = None if reference is None else parse_reference(reference)
        if parsed is not None and parsed.folder is not None:
            return read_folder(parsed.folder)
        try:
            return self._load(*self._find(parsed))
        except RemovedMeanwhileError:
            return self._load(*self._find(parsed))

    def locate(self, reference: str) -> Entry | BrokenEntry:
        """Find a version that may be corrupt.

        Raises:
            UsageError: The text is no reference to a version of this registry, or fits two contents.
            NotFoundError: There is no such version.
            VerificationError: The alias is damaged.
        """
        parsed = parse_reference(reference)
        if parsed.folder is not None:
            why = "it is a folder, not an entry of the registry"
            raise UsageError(f"{reference} has no name here", why=why, fix=f"mwactl registry add {reference}")
        return self._load_if_intact(*self._find(parsed))

    def names(self) -> list[str]:
        """All names, sorted."""
        refs = self.root / "refs"
        return sorted(path.name for path in refs.iterdir() if (path / "versions").is_dir()) if refs.is_dir() else []

    def versions(self, name: str) -> list[int]:
        """The numbers of a name's versions, ascending; none where there is no such name."""
        return self._folder(name).versions.numbers()

    def entries(self, name: str | None = None) -> list[Entry | BrokenEntry]:
        """All versions (of one name), by name, newest first; one that cannot be read appears as a `BrokenEntry`."""
        found: list[Entry | BrokenEntry] = []
        for each in self.names() if name is None else [name]:
            folder = self._folder(each)
            for version in reversed(folder.versions.numbers()):
                with suppress(RemovedMeanwhileError):
                    found.append(self._load_if_intact(folder, version))
        return found

    def aliases(self, name: str) -> dict[str, tuple[int, str]]:
        """Alias → version and manifest digest; damaged ones are left out (`labels` names them)."""
        return {
            alias: (target.version, target.digest) for alias, target in self._folder(name).aliases.targets()[0].items()
        }

    def tags(self, name: str) -> dict[int, dict[str, str]]:
        """Version → its tags, for the versions that have some.

        Raises:
            VerificationError: The file of the tags is damaged.
        """
        return self._folder(name).tags.read()

    def labels(self, name: str) -> Labels:
        """Aliases and tags by version, and what of them is damaged, for lists."""
        return labels(self._folder(name))

    def read(self, entry: Entry, path: str) -> bytes:
        """The verified bytes of one file of an entry.

        Raises:
            NotFoundError: The entry has no such file.
            VerificationError: The bytes are not those that were published.
        """
        digest = _digest_of_file(entry, path)
        if isinstance(entry, FolderEntry) and entry.is_itself:
            return read_folder_file(entry, path, digest)
        return self._blobs.read(digest, where=f"{path} of {entry.reference}")

    def verified_path(self, entry: Entry, path: str) -> Path:
        """Where one file of an entry lies, its bytes verified: for files too large to hold in memory.

        Raises:
            NotFoundError: The entry has no such file.
            VerificationError: The bytes are not those that were published.
        """
        digest = _digest_of_file(entry, path)
        if isinstance(entry, FolderEntry) and entry.is_itself:
            return verified_folder_file(entry, path, digest)
        return self._blobs.verified(digest, where=f"{path} of {entry.reference}")

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

    def _writing(self, need_bytes: int, **options: int) -> AbstractContextManager[bool]:
        return writing(self.root, self.reporter, need_bytes=need_bytes, lock_timeout_s=self.lock_timeout_s, **options)

    def _change(self, name: str, plan: Callable[[NameFolder], list[Change]], dry_run: bool) -> list[Change]:
        """Plan without the lock, to refuse or to stop there; then again under it, and do it."""
        folder = self._folder(name)
        changes = plan(folder)
        if dry_run or all(change.is_empty for change in changes):
            return changes
        with self._writing(_POINTERS_BYTES, reserve_bytes=0):
            changes = plan(folder)
            for change in changes:
                if not change.is_empty:
                    folder.apply(change)
        return changes

    def _find(self, reference: Reference | None) -> tuple[NameFolder, int]:
        if reference is None:
            return lookup.find_newest(map(self._folder, self.names()))
        folder = self._folder(reference.name)
        return folder, lookup.find(folder, reference, names=self.names)

    def _load_if_intact(self, folder: NameFolder, version: int) -> Entry | BrokenEntry:
        try:
            return self._load(folder, version)
        except RemovedMeanwhileError:
            raise
        except MwactlError as error:
            return BrokenEntry(folder.name, version, "; ".join(filter(None, (error.what, error.why))))

    def _load(self, folder: NameFolder, version: int) -> Entry:
        digest = lookup.digest_of(folder, version)
        manifest = self._whole_manifest(digest, f"{folder.name}@{version}")
        return Entry(folder.name, version, digest, manifest, folder.created(version, digest))

    def _whole_manifest(self, digest: str, reference: str) -> dict[str, Any]:
        manifest = parse_manifest(self._blobs.read(digest, where=f"the manifest of {reference}"), where=reference)
        for file in manifest["files"]:
            self._blobs.check_size(file["sha256"], file["size"], where=f"{file['path']} of {reference}")
        return manifest

    def _check_kept(self, restored: Change) -> None:
        assert restored.new is not None
        digest = restored.new["digest"]
        if not self._blobs.path(digest).exists():
            raise NotFoundError(
                f"the content of {restored.reference} is gone",
                where=str(self._blobs.path(digest)),
                why="it was removed, and clean-up has deleted it since",
                fix="mwactl registry unpack FILE or mwactl registry pull ADDRESS, if it was packed or pushed before",
            )
        self._whole_manifest(digest, restored.reference)

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


def _digest_of_file(entry: Entry, path: str) -> str:
    for file in entry.manifest["files"]:
        if file["path"] == path:
            return str(file["sha256"])
    raise NotFoundError(
        f"{entry.reference} has no file {path!r}",
        why=f"it has {', '.join(file['path'] for file in entry.manifest['files']) or 'no files'}",
        fix=f"mwactl registry show {entry.reference}",
    )


def _size(source: Source) -> int:
    """Bytes that a file to publish takes."""
    if isinstance(source, Path) and not source.is_file():
        raise NotFoundError("a file to publish is not there", where=str(source), fix="check the path")
    return size_of(source)
