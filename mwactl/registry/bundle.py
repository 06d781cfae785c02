"""Bundles: entries in one file, a tar of an OCI image layout, to carry from one registry to another.

A bundle holds no time, no place and no user, so that equal entries make equal files. What is unpacked is verified to
the last byte before the registry is touched; then entry after entry enters it through `Registry.receive`.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mwactl.errors import MwactlError, NotFoundError, ResourceError, UsageError, VerificationError
from mwactl.files import atomic_file
from mwactl.progress import Reporter
from mwactl.registry.entry import Entry
from mwactl.registry.folder_entry import FolderEntry
from mwactl.registry.oci_layout import Parcel, entry_artifacts, layout_files, read_layout
from mwactl.registry.receive import Delivery, check_delivery
from mwactl.registry.reference import checked_name
from mwactl.registry.staging import Source, chunks_of, size_of
from mwactl.registry.store import Registry
from mwactl.registry.tar import read_members, tar_chunks, tar_size
from mwactl.registry.writing import check_space

MAX_MEMBERS = 100_000
"""How many files and directories a bundle may have."""

_ELSEWHERE = "name another place with -o"
_HEAL = "take an intact copy: fetch the bundle again, or publish the same files again before packing"


# -- packing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packing:
    """What a bundle is going to hold."""

    entries: tuple[Entry, ...]
    """The entries, in the order in which they will be unpacked."""
    attachments: Mapping[str, int]
    """Reference → how many results are attached to the entry."""
    missing: tuple[str, ...]
    """Manifest digests of ancestors that are asked for and not in this registry."""
    files: Mapping[str, tuple[int, Source]]
    """Every file of the bundle: path → size and content."""

    @property
    def size_bytes(self) -> int:
        """How long the file will be."""
        return tar_size(size for size, _ in self.files.values())


def plan_packing(registry: Registry, references: Sequence[str], *, with_parents: bool) -> Packing:
    """Find what is to be packed; nothing is written, and files are not read yet.

    Args:
        registry: Where the entries are.
        references: `coco`, `coco@3`, …
        with_parents: Pack their ancestors as well, as far as they are here.

    Raises:
        UsageError: No reference, or one that does not name an entry of the registry.
        NotFoundError: There is no such entry.
        VerificationError: Something to be packed is corrupt.
        MwactlError: It is more than anyone would unpack.
    """
    asked = [registry.resolve(reference) for reference in references]
    for entry in asked:
        check_registered(entry)
    chosen = {entry.reference: entry for entry in asked}
    missing: list[str] = []
    if with_parents:
        missing = _add_ancestors(registry, chosen)
    # Versions of a name in their order, so that the newest stays the newest; names of ancestors alone come first.
    names = {entry.name for entry in asked}
    ordered = sorted(chosen.values(), key=lambda entry: (entry.name in names, entry.name, entry.version))
    artifacts = {entry.reference: entry_artifacts(registry.root, entry) for entry in ordered}
    files = layout_files([artifact for group in artifacts.values() for artifact in group])
    if len(files) > MAX_MEMBERS:
        why = f"the bundle would have {len(files):,} members, and nobody unpacks more than {MAX_MEMBERS:,}"
        raise MwactlError("too much for one bundle", why=why, fix="pack fewer versions at once")
    attachments = {reference: len(group) - 1 for reference, group in artifacts.items()}
    try:
        sized = {path: (size_of(source), source) for path, source in files.items()}
    except OSError as error:  # removed since it was found
        where = str(error.filename)
        raise VerificationError("a file cannot be read", where=where, why=error.strerror, fix=_HEAL) from error
    return Packing(tuple(ordered), attachments, tuple(missing), sized)


def check_registered(entry: Entry) -> None:
    """Look whether an entry is in the registry: only from there does it go anywhere.

    Raises:
        UsageError: It is a folder's.
    """
    if isinstance(entry, FolderEntry):
        raise UsageError(
            f"{entry.reference} is a folder, not an entry of the registry",
            fix=shlex.join(["mwactl", "registry", "add", entry.typed]),
        )


def pack(packing: Packing, target: Path, *, replace: bool, reporter: Reporter) -> str:
    """Write a bundle, completely or not at all; every byte is verified on its way.

    Returns:
        The SHA-256 of the file.

    Raises:
        UsageError: The target is there already, or is no place for a file.
        VerificationError: Something to be packed is corrupt.
        ResourceError: There is no space, or the place cannot be written to.
    """
    check_target(packing, target, replace=replace)
    digest = hashlib.sha256()
    progress = reporter.progress("packing", packing.size_bytes)
    try:
        with atomic_file(target) as file:
            for chunk in tar_chunks(map(_member, packing.files.items())):
                digest.update(chunk)
                file.write(chunk)
                progress.advance(len(chunk))
    except ResourceError as error:
        raise ResourceError(error.what, where=error.where, why=error.why, fix=_ELSEWHERE) from error
    finally:
        progress.close()
    return digest.hexdigest()


def check_target(packing: Packing, target: Path, *, replace: bool) -> None:
    """Look whether a bundle can be written there.

    Raises:
        UsageError: The target is there already, or is no place for a file.
        ResourceError: There is too little space.
    """
    if target.is_dir() or (target.exists() and not replace):
        raise UsageError(
            "there is a directory of this name" if target.is_dir() else "there is such a file already",
            where=str(target),
            fix="name another file with -o" + ("" if target.is_dir() else ", or replace it with --force"),
        )
    directory = next(parent for parent in target.absolute().parents if parent.exists())
    if not directory.is_dir():
        raise UsageError(
            "a bundle cannot be written there", where=str(target), why=f"{directory} is a file", fix=_ELSEWHERE
        )
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < packing.size_bytes:
        raise ResourceError(
            "not enough space; nothing was written",
            where=str(directory),
            why=f"the bundle has {packing.size_bytes / 1e6:,.1f} MB, {free_bytes / 1e6:,.1f} MB are free",
            fix=_ELSEWHERE,
        )


def _member(file: tuple[str, tuple[int, Source]]) -> tuple[str, int, Iterator[bytes]]:
    path, (size, source) = file
    if isinstance(source, Path):  # its name in the bundle is the digest that it has to have
        return path, size, _verified(Path(path).name, source, where=str(source))
    return path, size, chunks_of(source)


def _add_ancestors(registry: Registry, chosen: dict[str, Entry]) -> list[str]:
    """Add the ancestors that have a name here; return the digests of those that have none."""
    references = registry.references()
    known = {entry.digest for entry in chosen.values()}
    missing: list[str] = []
    for entry in list(chosen.values()):
        for manifest in registry.lineage(entry)[1:]:
            digest = manifest.get("missing") or manifest["digest"]
            if digest in known:
                continue
            known.add(digest)
            if held := references.get(digest):
                own = [reference for reference in held if reference.startswith(f"{entry.name}@")]
                ancestor = registry.resolve((own or held)[0])
                chosen[ancestor.reference] = ancestor
            else:
                missing.append(digest)
    return missing


# -- unpacking -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unpacking:
    """A bundle that was read and verified to the last byte."""

    parcels: tuple[tuple[str, Parcel], ...]
    """The entries, in the order of the bundle; with each the name it gets."""
    here: tuple[str | None, ...]
    """For each, the reference under which the registry had it before."""
    sizes: tuple[int, ...]
    """For each, the bytes it takes."""


@dataclass(frozen=True)
class Unpacked:
    """One entry that a bundle brought."""

    entry: Entry
    """What it is here."""
    was_here: bool
    """Whether the registry had it before."""


def plan_unpacking(registry: Registry, bundle: Path, *, name: str | None, reporter: Reporter) -> Unpacking:
    """Read a bundle and verify all of it; nothing is written.

    Args:
        registry: Where it is to be unpacked.
        bundle: The file.
        name: Another name for the adapter in it. Ancestors that came along under names of their own keep them.
        reporter: Sees the progress.

    Raises:
        NotFoundError: There is no such file.
        UsageError: It is a directory, the name cannot be used, or it fits several adapters in the bundle.
        VerificationError: Something in it is not what its digest says, or is unsafe.
        IncompatibleError: A newer version made it.
        ResourceError: There is too little space.
        MwactlError: It cannot be read.
    """
    if not bundle.is_file():
        raise (UsageError if bundle.exists() else NotFoundError)(
            "a bundle is a file" if bundle.exists() else "there is no such file",
            where=str(bundle),
            fix="mwactl registry pack REF -o FILE makes a bundle",
        )
    try:
        parcels = read_layout(read_members(bundle, max_members=MAX_MEMBERS), where=str(bundle))
        deliveries = [check_delivery(parcel.manifest, parcel.attachments, where=str(bundle)) for parcel in parcels]
        names = _names(parcels, deliveries, name)
        files = {digest: source for parcel in parcels for digest, source in parcel.blobs.items()}
        check_space(registry.root, _need_bytes(files, deliveries))
        _verify(files, bundle, reporter)
    except OSError as error:
        fix = "check that you may read it, or copy it again"
        raise MwactlError("this file cannot be read", where=str(bundle), why=error.strerror, fix=fix) from error
    references = registry.references()
    here = []
    for given, parcel in zip(names, parcels, strict=True):
        held = [reference for reference in references.get(parcel.digest, []) if reference.startswith(f"{given}@")]
        here.append(held[-1] if held else None)
    sizes = tuple(delivery.size_bytes for delivery in deliveries)
    return Unpacking(tuple(zip(names, parcels, strict=True)), tuple(here), sizes)


def unpack(registry: Registry, unpacking: Unpacking, *, reporter: Reporter) -> list[Unpacked]:
    """Take the entries of a bundle over, one after the other; each appears whole.

    Raises:
        ResourceError: No space, or the lock was not free in time; the entries before that stay.
        VerificationError: The bundle has changed since it was verified.
    """
    unpacked = []
    progress = reporter.progress("unpacking", sum(unpacking.sizes))
    try:
        for (name, parcel), was, size in zip(unpacking.parcels, unpacking.here, unpacking.sizes, strict=True):
            entry = registry.receive(name, parcel.manifest, parcel.blobs, parcel.attachments, verb="unpack")
            unpacked.append(Unpacked(entry, entry.reference == was))
            progress.advance(size)
    finally:
        progress.close()
    return unpacked


def _names(parcels: Sequence[Parcel], deliveries: Sequence[Delivery], name: str | None) -> list[str]:
    """The name that each entry gets: `name` for the adapter that nothing else in the bundle was made from."""
    if name is None:
        return [parcel.name for parcel in parcels]
    parents = {parent for delivery in deliveries for parent in delivery.parents}
    heads = sorted({parcel.name for parcel in parcels if parcel.digest not in parents})
    if len(heads) > 1:
        raise UsageError(
            f"the bundle holds several adapters, which cannot all be called {name}",
            why=", ".join(heads),
            fix="unpack it without --name, or pack one adapter",
        )
    given = checked_name(name)
    return [given if parcel.name in heads else parcel.name for parcel in parcels]


def _need_bytes(files: Mapping[str, Source], deliveries: Sequence[Delivery]) -> int:
    return sum(map(size_of, files.values())) + sum(delivery.document_bytes for delivery in deliveries)


def _verify(files: Mapping[str, Source], bundle: Path, reporter: Reporter) -> None:
    """Hash every file in the bundle."""
    progress = reporter.progress("verifying", sum(map(size_of, files.values())))
    try:
        for digest, source in files.items():
            for chunk in _verified(digest, source, where=str(bundle)):
                progress.advance(len(chunk))
    finally:
        progress.close()


# -- both ------------------------------------------------------------------------------------------------------


def _verified(digest: str, source: Source, *, where: str) -> Iterator[bytes]:
    """The bytes of a source; the error comes at their end.

    Raises:
        VerificationError: They are not what the digest says.
    """
    found = hashlib.sha256()
    try:
        for chunk in chunks_of(source):
            found.update(chunk)
            yield chunk
    except OSError as error:
        raise VerificationError("a file cannot be read", where=where, why=error.strerror, fix=_HEAL) from error
    if found.hexdigest() != digest:
        why = f"expected sha256:{digest[:12]}…, found sha256:{found.hexdigest()[:12]}…"
        raise VerificationError("a file is not what its digest says", where=where, why=why, fix=_HEAL)
