"""Which content the references of a registry need, and what is wrong with them: verify checks it, gc must keep it.

Every pointer is small and there is a second witness for most of what they say: each line of the history has a checksum,
so a pointer that was damaged or lost can be told from one that was removed, and usually be written again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mwactl.errors import MwactlError, NotFoundError, VerificationError
from mwactl.registry.attachments import attached_directory, parse_attachment
from mwactl.registry.blobs import BlobStore, is_digest
from mwactl.registry.fault import REPAIR, Fault, seen_in, shortened
from mwactl.registry.folder import NameFolder
from mwactl.registry.manifest import parse_manifest
from mwactl.registry.numbered import NumberedPointers
from mwactl.registry.tags import tags_bytes, tags_in_history

_REMOVED = ", removed:"
"""After the reference of a version that was removed, where its results are meant."""

Selection = Mapping[str, Set[int] | None]
"""Names, and the versions of each; None is all of a name, with its aliases, tags and history."""


@dataclass(frozen=True)
class Need:
    """A blob that a reference leads to."""

    digest: str
    what: str
    """What it is to a reader: `coco@3 adapter.safetensors`."""
    reference: str
    """The version it belongs to: `coco@3`."""
    size: int | None = None
    """How long it should be, in bytes, where the manifest says so."""


@dataclass(frozen=True)
class Removed:
    """A version that was removed and may still be restored."""

    reference: str
    digest: str
    time_ns: int
    """When it was removed."""


@dataclass
class RemovedResults:
    """What is attached to content of which a name has removed versions only: it comes back with one of them."""

    manifest: str
    """The digest of that content."""
    needs: list[Need] = field(default_factory=list)
    """The results."""
    pointers: list[Path] = field(default_factory=list)
    """What leads to them."""
    hiding: list[Fault] = field(default_factory=list)
    """Faults that hide which results there are."""
    others: list[Fault] = field(default_factory=list)
    """Faults that hide none."""


@dataclass
class Census:
    """What all the references say."""

    versions: int = 0
    """How many versions there are."""
    needs: list[Need] = field(default_factory=list)
    """Every blob that is reached from a version or an alias."""
    removed: list[Removed] = field(default_factory=list)
    """The versions that were removed."""
    removed_results: list[RemovedResults] = field(default_factory=list)
    """Results of the versions that were removed and can be restored."""
    stray_attachments: list[Path] = field(default_factory=list)
    """Pointers to results about content that the name no longer has."""
    hiding: list[Fault] = field(default_factory=list)
    """Faults that hide what is needed: with one of these nobody can say which blobs may go."""
    others: list[Fault] = field(default_factory=list)
    """Faults in what holds no content: tags, history, tombstones."""

    @property
    def faults(self) -> list[Fault]:
        """All of them."""
        of_removed = [fault for each in self.removed_results for fault in (*each.hiding, *each.others)]
        return [*self.hiding, *self.others, *of_removed]

    @property
    def checked(self) -> list[Need]:
        """Every blob that should be there: what is needed, and the results that come back with a removed version."""
        return [*self.needs, *(need for each in self.removed_results for need in each.needs)]


def take_census(root: Path, selection: Selection | None = None, *, kept_since_ns: int | None = None) -> Census:
    """Follow every reference down to the digests of its files.

    Args:
        root: The registry.
        selection: What to look at; None is everything.
        kept_since_ns: Versions removed after this time (nanoseconds since 1970) count as if they were there; None: no
            removed version does.
    """
    census = Census()
    names = _names(root, census) if selection is None else sorted(selection)
    for name in names:
        versions = None if selection is None else selection[name]
        count = _NameCount(root, name, census, versions, kept_since_ns)
        try:
            count.run()
        except OSError as error:  # a directory that cannot be listed: it may hold anything
            path = Path(error.filename) if error.filename else root / "refs" / name
            census.hiding.append(
                Fault(name, path, "a directory", str(error.strerror), "make it readable, or restore it from a backup")
            )
    return census


def _names(root: Path, census: Census) -> list[str]:
    """All directories in `refs/`, whatever they are called: what is in one of them is not for gc to judge."""
    try:
        with os.scandir(root / "refs") as found:
            return sorted(entry.name for entry in found if entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        fix = "make it readable, or restore it from a backup"
        census.hiding.append(Fault("all names", root / "refs", "a directory", str(error.strerror), fix))
        return []


class _NameCount:
    """The part of a census that is about one name."""

    def __init__(
        self, root: Path, name: str, census: Census, selected: Set[int] | None, kept_since_ns: int | None
    ) -> None:
        self._root, self._name, self._census = root, name, census
        self._selected, self._kept_since_ns = selected, kept_since_ns
        self._blobs = BlobStore(root)
        self._folder = NameFolder(root, name)
        self._directory = root / "refs" / name
        self._living: dict[str, str] = {}  # manifest digest → the first reference that leads there
        self._gone: dict[str, str] = {}  # the same of the versions that were removed
        self._manifests: dict[str, dict[str, Any] | MwactlError] = {}

    def run(self) -> None:
        removed = self._folder.versions.removed()
        for number in sorted({*self._folder.versions.numbers(), *(self._published.keys() - set(removed))}):
            if self._is_selected(number):
                self._version(number)
        for number in removed:
            if self._is_selected(number):
                self._tombstone(number)
        if self._selected is None:
            self._aliases()
            self._tags()
            self._history()
        self._attachments()

    def _is_selected(self, number: int) -> bool:
        return self._selected is None or number in self._selected

    # -- versions ----------------------------------------------------------------------------------------------

    def _version(self, number: int) -> None:
        path, reference = self._directory / "versions" / str(number), f"{self._name}@{number}"
        held = self._folder.versions.intact_digest(number, "")
        published = self._published.get(number, "") or ("" if held else self._aliased(number))
        if not held and self._folder.versions.is_removed(number):  # since the directory was listed
            self._tombstone(number)
            return
        if not held and not path.exists() and isinstance(self._manifest(published), MwactlError):
            self._lost(published, reference, path)
            return
        self._census.versions += 1
        if held and (held == published or not published or isinstance(self._manifest(published), MwactlError)):
            self._keep(held, reference)
            return
        content = self._content_of(published)
        if held and not isinstance(self._manifest(held), MwactlError):
            # Two intact manifests: the pointer is what readers follow, and nothing here can say which one is right.
            content = None
            self._keep(held, reference)
        if published:
            self._keep(published, reference)
        found = shortened(held) if held else seen_in(path)
        expected = (
            f"{shortened(published)} (says the history, or an alias)" if published else "a SHA-256 and a line end"
        )
        fix = REPAIR if content else f"restore the file from a backup, or: mwactl registry rm {reference}"
        self._census.hiding.append(Fault(reference, path, expected, found, fix, content))

    def _lost(self, published: str, reference: str, path: Path) -> None:
        """Neither pointer nor manifest, and not removed: where nothing is left of it, nothing is hidden by it."""
        if published:
            fix = f"restore {self._directory} and the blobs from a backup"
            fault = Fault(reference, path, f"{shortened(published)} (says the history)", "no file", fix)
            is_here = self._blobs.path(published).exists()
            (self._census.hiding if is_here else self._census.others).append(fault)

    def _is_damaged(self, number: int) -> bool:
        versions = self._folder.versions
        was_made = number in self._published or versions.exists(number)
        return was_made and not versions.is_removed(number) and not versions.intact_digest(number, "")

    def _aliased(self, number: int) -> str:
        """The digest of a version as an alias tells it."""
        told = self._folder.aliases.leading_to(number).values()
        return next((target.digest for target in told), "")

    def _content_of(self, digest: str) -> bytes | None:
        """What a pointer to this manifest holds; None where the manifest is not here."""
        return None if isinstance(self._manifest(digest), MwactlError) else f"{digest}\n".encode("ascii")

    def _keep(self, digest: str, reference: str) -> None:
        """Note that a manifest, and the files that it names, are needed."""
        first = digest not in self._living
        self._living.setdefault(digest, reference)
        self._census.needs.append(Need(digest, f"{reference} manifest", reference))
        manifest = self._manifest(digest)
        if isinstance(manifest, MwactlError):
            if first:
                self._census.hiding.append(self._bad_manifest(digest, reference, manifest))
            return
        for file in manifest["files"]:
            what = f"{reference} {file['path']}"
            self._census.needs.append(Need(file["sha256"], what, reference, file["size"]))

    def _bad_manifest(self, digest: str, reference: str, error: MwactlError) -> Fault:
        found = "; ".join(filter(None, (error.what, error.why)))
        fix = error.fix if error.exit_code == 4 and error.fix else bring_back(reference)
        return Fault(f"{reference} manifest", self._blobs.path(digest), shortened(digest), found, fix)

    def _manifest(self, digest: str) -> dict[str, Any] | MwactlError:
        """A manifest, or why there is none."""
        if digest not in self._manifests:
            try:
                data = self._blobs.read(digest, where="it") if digest else b""
                self._manifests[digest] = parse_manifest(data, where="it")
            except MwactlError as error:
                self._manifests[digest] = error
        return self._manifests[digest]

    def _tombstone(self, number: int) -> None:
        path, reference = self._directory / "versions" / f"{number}.removed", f"{self._name}@{number}"
        published = self._published.get(number, "")
        try:
            time_ns = _changed_ns(path)
            held = self._folder.versions.removed_digest(number)
        except FileNotFoundError:  # it was restored meanwhile
            self._version(number)
            return
        except VerificationError:
            held = ""
        if held != (published or held) or not (held or _is_empty(path)):
            # Where nobody knows what was removed, an empty file says that something was: the number stays taken.
            content = f"{published}\n".encode("ascii") if published else b""
            expected = f"{shortened(published)} (says the history)" if published else "a SHA-256 and a line end"
            self._census.others.append(Fault(f"{reference}, removed", path, expected, seen_in(path), REPAIR, content))
        if digest := published or held:
            self._census.removed.append(Removed(reference, digest, time_ns))
            self._gone.setdefault(digest, reference)
            if self._kept_since_ns is not None and time_ns > self._kept_since_ns:
                self._keep_removed(digest, reference)

    def _keep_removed(self, digest: str, reference: str) -> None:
        if isinstance(self._manifest(digest), MwactlError):
            self._living.setdefault(digest, reference)  # its results at least are kept
        else:
            self._keep(digest, reference)

    # -- what lies beside the versions -------------------------------------------------------------------------

    def _aliases(self) -> None:
        for alias in self._folder.aliases.names():
            try:
                self._folder.aliases.target(alias)
            except MwactlError as error:
                self._bad_alias(alias, error)

    def _bad_alias(self, alias: str, error: MwactlError) -> None:
        path = self._directory / "aliases" / alias
        try:
            digest = self._folder.aliases.written(alias).digest
        except NotFoundError:  # taken away meanwhile
            return
        except VerificationError:
            digest = ""
        if digest and self._is_damaged(self._folder.aliases.written(alias).version):
            return  # the version's fault, not that of the alias
        if digest and digest not in self._living and not isinstance(self._manifest(digest), MwactlError):
            self._keep(digest, f"{self._name}:{alias}")  # its version is gone or damaged, but not its content
        target = self._alias_target(alias, digest)
        content = f"{target} {self._folder.versions.digest(target)}\n".encode("ascii") if target else None
        fix = f"{REPAIR}   (leads to {self._name}@{target} then)" if target else error.fix or "set the alias again"
        expected = "the version and the digest of an existing version"
        fault = Fault(f"{self._name}:{alias}", path, expected, f"{seen_in(path)}: {error.what}", fix, content)
        (self._census.others if digest else self._census.hiding).append(fault)

    def _alias_target(self, alias: str, digest: str) -> int | None:
        """Where a damaged alias led: to a version with the digest that is in it, else where the history says."""
        versions = self._folder.versions
        digests = {number: versions.intact_digest(number, "") for number in versions.numbers()}
        said = next((_new(line) for line in reversed(self._records) if _alias_of(line) == alias), {})
        wanted = digest if digest and digest in digests.values() else said.get("digest")
        fitting = [number for number, held in digests.items() if held and held == wanted]
        return said["version"] if said.get("version") in fitting else max(fitting, default=None)

    def _tags(self) -> None:
        path, told = self._directory / "tags.json", tags_in_history(self._records)
        try:
            self._folder.tags.read()
            if path.exists() or not told:
                return
            expected, found = "the tags that the history tells", "no file"
        except VerificationError as error:
            expected, found = "the checksum in it", error.why or error.what
        fix = f"{REPAIR}   (takes what the history says)"
        self._census.others.append(Fault(f"{self._name} tags", path, expected, found, fix, tags_bytes(told)))

    def _history(self) -> None:
        path = self._folder.history.path
        if not self._lines:
            self._no_history(path)
            return
        problems = [record["problem"] for record in self._lines if "problem" in record]
        if not problems:
            return
        try:
            content = self._folder.history.intact_lines()
        except OSError:
            content = None
        fix = f"{REPAIR}   (keeps the other lines)" if content is not None else "make it readable"
        self._census.others.append(
            Fault(f"{self._name} history", path, "lines with their checksums", "; ".join(problems), fix, content)
        )

    def _no_history(self, path: Path) -> None:
        if self._folder.versions.numbers():
            fix = f"restore it from a backup; or begin a new one: mwactl registry tag {self._name} history=lost"
            expected = "a line for each change"
            self._census.others.append(Fault(f"{self._name} history", path, expected, seen_in(path), fix))

    def _attachments(self) -> None:
        # The history was read before the pointers are: what is attached meanwhile is in neither or has its pointer.
        restorable = {
            digest: reference
            for digest, reference in self._gone.items()
            if digest not in self._living and not isinstance(self._manifest(digest), MwactlError)
        }
        subjects = list(_directories(self._directory / "attached"))
        known = {attached_directory(self._root, self._name, digest) for digest in (*self._living, *restorable)}
        for digest, reference in self._living.items():
            self._results(digest, reference, self._census)
        for digest, reference in restorable.items():
            results = RemovedResults(digest)
            self._results(digest, f"{reference}{_REMOVED}", results)
            self._census.removed_results.append(results)
        if self._selected is None:
            for subject in subjects:
                for directory in () if subject in known else _directories(subject):
                    numbers = NumberedPointers(self._root, directory).numbers()
                    self._census.stray_attachments += [directory / str(number) for number in numbers]

    def _results(self, subject: str, reference: str, into: Census | RemovedResults) -> None:
        """All that is attached to some content, or was as the history tells it."""
        directory = attached_directory(self._root, self._name, subject)
        here = (path.name for path in _directories(directory))
        for kind in sorted({*self._attached_to.get(subject, ()), *here}):
            self._attached(subject, kind, reference, into)

    def _attached(self, subject: str, kind: str, reference: str, into: Census | RemovedResults) -> None:
        directory = attached_directory(self._root, self._name, subject) / kind
        pointers = NumberedPointers(self._root, directory)
        found = {number: pointers.intact_digest(number, "") for number in pointers.numbers()}
        logged = self._logged(subject, kind, found)
        held = {number: found.get(number, "") for number in range(1, max([len(logged), *found]) + 1)}
        for number, content in self._attached_again(logged, held).items():
            path, digest = directory / str(number), held[number]
            what = f"{reference} {kind} {number}"
            if isinstance(into, RemovedResults) and number in found:
                into.pointers.append(path)
            if digest and content is None:
                into.needs.append(Need(digest, what, reference))
                self._check_attachment(digest, kind, subject, what, into)
                continue
            fix = REPAIR if content else f"restore the file from a backup, or give it up: {_give_up(reference)}"
            fault = Fault(what, path, "the SHA-256 of a result and a line end", seen_in(path), fix, content)
            (into.others if self._is_lost(number, found, logged) else into.hiding).append(fault)

    def _is_lost(self, number: int, found: Mapping[int, str], logged: list[str]) -> bool:
        """Whether neither the pointer nor the result is left of what was attached: then nothing is hidden."""
        return number not in found and number <= len(logged) and not self._blobs.path(logged[number - 1]).exists()

    def _logged(self, subject: str, kind: str, found: Mapping[int, str]) -> list[str]:
        """The digests that were attached, in their order, as the history tells it.

        Where all versions with this content were removed and it was published again, clean-up may have taken what was
        attached before: that counts only where the pointers are not those of the time since.
        """
        whole, since = self._attached_to.get(subject, {}).get(kind, ([], 0))
        recent = whole[since:]
        begun_anew = len(recent) >= max(found, default=0) and all(
            recent[number - 1] == digest for number, digest in found.items() if digest
        )
        return recent if begun_anew else whole

    def _attached_again(self, told: list[str], held: Mapping[int, str]) -> dict[int, bytes | None]:
        """Number → what its pointer should hold; None where it is right, or where nobody can say.

        The history has the digests in their order: where it agrees with the pointers that lead somewhere, it is
        believed about the others.
        """
        logged = dict(zip(held, told, strict=False))
        here = {digest: self._blobs.path(digest).exists() for digest in {*held.values(), *logged.values()} if digest}
        wrong = [number for number, digest in held.items() if digest != logged.get(number)]
        believed = all(not here.get(held[number]) and here.get(logged.get(number, "")) for number in wrong)
        again = {number: f"{logged[number]}\n".encode("ascii") for number in wrong} if believed else {}
        return {number: again.get(number) for number in held}

    def _check_attachment(self, digest: str, kind: str, subject: str, what: str, into: Census | RemovedResults) -> None:
        try:
            data = self._blobs.read(digest, where=what)
        except VerificationError:  # one fault for it, when the blobs are looked at
            return
        try:
            parse_attachment(data, kind=kind, subject=subject, where=what)
        except VerificationError as error:
            expected, fix = f"a result ({kind}) of this version", "restore the pointer from a backup"
            into.others.append(Fault(what, self._blobs.path(digest), expected, error.what, fix))

    # -- the second witness ------------------------------------------------------------------------------------

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        return self._folder.history.records()

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        """The intact lines of the history."""
        return [record for record in self._lines if "problem" not in record]

    @cached_property
    def _published(self) -> dict[int, str]:
        """Version → the digest of its manifest, as the history tells it."""
        told = [new for new in map(_new, self._records) if new.keys() - {"restored"} == {"version", "digest"}]
        return {
            new["version"]: new["digest"] for new in told if is_digest(new["digest"]) and _is_number(new["version"])
        }

    @cached_property
    def _attached_to(self) -> dict[str, dict[str, tuple[list[str], int]]]:
        """Manifest digest → kind → the digests that were attached, in their order, as the history tells it.

        And how many of them came before the content was published again after all its versions had been removed.
        """
        found: dict[str, dict[str, tuple[list[str], int]]] = {}
        alive: dict[str, set[int]] = {}
        for record in self._records:
            new, old = _new(record), record.get("old")
            digest, version = str(new.get("digest")), new.get("version")
            if is_digest(new.get("attached")):
                kind = str(new.get("attachment"))
                found.setdefault(digest, {}).setdefault(kind, ([], 0))[0].append(new["attached"])
            elif new.keys() == {"version", "digest"} and _is_number(version):
                if digest in found and not alive.get(digest):
                    found[digest] = {kind: (told, len(told)) for kind, (told, _) in found[digest].items()}
                alive.setdefault(digest, set()).add(new["version"])
            elif new.get("restored") and _is_number(version):
                alive.setdefault(digest, set()).add(new["version"])
            elif record.get("verb") == "remove" and isinstance(old, dict):
                alive.get(str(old.get("digest")), set()).discard(old.get("version", 0))
        return found


def bring_back(reference: str) -> str:
    """The way to get content again that is in this registry no more."""
    return f"mwactl registry unpack FILE.tar, or pull URL, with the same content; else {_give_up(reference)}"


def _give_up(reference: str) -> str:
    removed = reference.endswith(_REMOVED)
    return "mwactl registry gc --grace 0 --apply" if removed else f"mwactl registry rm {reference}"


def _new(line: Mapping[str, Any]) -> dict[str, Any]:
    """What a line of the history says was made."""
    new = line.get("new")
    return new if isinstance(new, dict) else {}


def _is_number(version: object) -> bool:
    return type(version) is int and version > 0


def _alias_of(line: Mapping[str, Any]) -> str | None:
    sides = [side for side in (line.get("new"), line.get("old")) if isinstance(side, dict)]
    return next((side["alias"] for side in sides if "alias" in side), None)


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0


def _changed_ns(path: Path) -> int:
    """When a file came under this name: a rename moves the time of the last status change, not that of the content."""
    stat = path.stat()
    return max(stat.st_ctime_ns, stat.st_mtime_ns)


def _directories(directory: Path) -> Iterator[Path]:
    """The directories in a directory, which need not exist."""
    try:
        paths = sorted(directory.iterdir())
    except FileNotFoundError:
        return
    yield from (path for path in paths if path.is_dir())
