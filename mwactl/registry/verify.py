"""Look at everything in a registry, offline, and put right what the rest of it can witness.

Nothing is written by looking, and no lock is taken. What another process changes meanwhile is no fault: where there
are faults, the references are followed once more, and what they no longer need is forgotten.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mwactl.errors import MwactlError, UsageError, VerificationError
from mwactl.files import sha256_file, sync_directory
from mwactl.progress import track
from mwactl.registry import lookup
from mwactl.registry.blobs import BlobStore, is_digest
from mwactl.registry.census import Census, Need, Selection, bring_back, take_census
from mwactl.registry.fault import REPAIR, Fault, shortened
from mwactl.registry.folder import NameFolder
from mwactl.registry.reference import Reference, parse_reference
from mwactl.registry.staging import make_directory, staged
from mwactl.registry.store import Registry
from mwactl.registry.writing import check_layout, layout_path, writing


@dataclass(frozen=True)
class Blob:
    """What was found under the name of a digest."""

    digest: str
    path: Path
    size: int
    found: str
    """The digest of what is there, or why it cannot be read."""

    @property
    def is_whole(self) -> bool:
        """Whether it is what its name says."""
        return self.found == self.digest


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what is wrong with it."""

    versions: int
    """How many versions were followed."""
    blobs: Mapping[str, Blob]
    """Every blob that was read."""
    faults: Sequence[Fault]
    """What is wrong, a file each."""
    selection: Selection | None = None
    """What was asked for; None is everything."""
    healed: Sequence[Fault] = ()
    """What was wrong before `repair`."""

    @property
    def size_bytes(self) -> int:
        """How much was read."""
        return sum(blob.size for blob in self.blobs.values())


def verify(registry: Registry, references: Sequence[str] = ()) -> Verification:
    """Look whether everything is there and is what its digest says; writes nothing.

    Args:
        registry: The registry.
        references: `coco` (all that is kept under this name), `coco@3`, `coco:prod`…; none: the whole registry, also
            the blobs that no reference needs.

    Raises:
        UsageError: A reference is none.
        NotFoundError: There is no such version.
    """
    selection = _selected(registry, references) if references else None
    census = take_census(registry.root, selection)
    blobs = {blob.digest: blob for blob in _read(registry, _paths(registry.root, census, selection))}
    verification = _judged(registry.root, census, blobs, selection)
    if verification.faults:
        verification = _judged(registry.root, take_census(registry.root, selection), blobs, selection)
    return verification


def repair(registry: Registry, before: Verification) -> Verification:
    """Put right what can be, with the registry locked; each damaged file is kept in `quarantine/`.

    A rotten blob goes there, and comes back where a whole copy of it lies there. A pointer, an alias, tags and a
    history are written again where something else in the registry says what was in them.

    Args:
        registry: The registry.
        before: What `verify` found.

    Returns:
        What is still wrong, and what no longer is.

    Raises:
        ResourceError: No space, or the lock was not free in time.
        VerificationError: The layout file is damaged, so that nothing may be written.
    """
    root, store = registry.root, BlobStore(registry.root)
    blobs = dict(before.blobs)
    with writing(root, registry.reporter, need_bytes=0, lock_timeout_s=registry.lock_timeout_s):
        for blob in before.blobs.values():
            if not blob.is_whole and store.set_aside_if_rotten(blob.digest):
                del blobs[blob.digest]
        census = _rewrite(root, before.selection)
        for digest in {need.digest for need in census.checked}:
            if not store.path(digest).exists() and (size := _bring_back(root, store, digest)) is not None:
                blobs[digest] = Blob(digest, store.path(digest), size, digest)
        # Once more: a manifest that came back may say what a damaged pointer held.
        census = _rewrite(root, before.selection)
    after = _judged(root, census, {**blobs, **_new_blobs(registry, census, blobs)}, before.selection)
    remaining = {fault.file for fault in after.faults}
    healed = [fault for fault in before.faults if fault.file not in remaining]
    return Verification(after.versions, after.blobs, after.faults, before.selection, healed)


# -- looking -------------------------------------------------------------------------------------------------------


def _selected(registry: Registry, references: Sequence[str]) -> Selection:
    selection: dict[str, set[int] | None] = {}
    for text in references:
        reference = parse_reference(text)
        numbers = _numbers(registry, reference)
        earlier = selection.get(reference.name, set())
        selection[reference.name] = None if numbers is None or earlier is None else earlier | numbers
    return selection


def _numbers(registry: Registry, reference: Reference) -> set[int] | None:
    """The versions that a reference means here; None: all that is kept under its name."""
    if reference.folder is not None:
        fix = f"mwactl registry show {reference.folder}"
        raise UsageError("a folder is no part of the registry", why="it is verified when it is read", fix=fix)
    if reference == Reference(reference.name) and (registry.root / "refs" / reference.name).is_dir():
        return None
    try:
        return {lookup.find(NameFolder(registry.root, reference.name), reference, names=registry.names)}
    except VerificationError:  # what the reference leads through is damaged
        return None


def _paths(root: Path, census: Census, selection: Selection | None) -> list[Path]:
    """The blobs to read: those that are needed, or all there are."""
    store = BlobStore(root)
    if selection is not None:
        needed = (store.path(digest) for digest in sorted({need.digest for need in census.checked}))
        return [path for path in needed if path.exists()]
    return sorted(path for path in (root / "blobs" / "sha256").glob("*/*") if _is_blob(path))


def _is_blob(path: Path) -> bool:
    return is_digest(path.name) and path.parent.name == path.name[:2]


def _read(registry: Registry, paths: Sequence[Path]) -> Iterator[Blob]:
    """Hash blobs; those that are gone by now are left out."""
    sizes = {path: _size(path) for path in paths}
    total = sum(sizes.values())
    for path in track(paths, registry.reporter, "verify, bytes", total, size=lambda path: sizes[path]):
        try:
            yield Blob(path.name, path, sizes[path], sha256_file(path))
        except FileNotFoundError:
            continue
        except OSError as error:  # a bad sector, or something that is no file
            yield Blob(path.name, path, sizes[path], f"unreadable ({error.strerror})")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _judged(root: Path, census: Census, blobs: Mapping[str, Blob], selection: Selection | None) -> Verification:
    """Put together what the references say and what the blobs are."""
    bad_blobs = _blob_faults(root, census, blobs)
    told = {fault.file for fault in bad_blobs}
    faults = [fault for fault in census.faults if fault.file not in told]
    return Verification(census.versions, blobs, [*_layout_faults(root), *faults, *bad_blobs], selection)


def _blob_faults(root: Path, census: Census, blobs: Mapping[str, Blob]) -> list[Fault]:
    store = BlobStore(root)
    needs: dict[str, list[Need]] = {}
    for need in census.checked:
        needs.setdefault(need.digest, []).append(need)
    faults = [
        Fault("a blob that nothing needs", blob.path, shortened(blob.digest), _seen(blob), REPAIR)
        for blob in blobs.values()
        if not blob.is_whole and blob.digest not in needs
    ]
    for digest, needed in needs.items():
        blob = blobs.get(digest)
        if blob is None and store.path(digest).exists():  # it came while the others were read
            continue
        if blob is None or not blob.is_whole:
            found, expected = "no file" if blob is None else _seen(blob), shortened(digest)
            faults.append(Fault(_what(needed), store.path(digest), expected, found, bring_back(needed[0].reference)))
        elif wrong := [need for need in needed if need.size not in (None, blob.size)]:
            expected, found = f"{wrong[0].size:,} bytes (says the manifest)", f"{blob.size:,} bytes"
            fix = f"publish the files again; mwactl registry rm {wrong[0].reference}"
            faults.append(Fault(_what(wrong), blob.path, expected, found, fix))
    return faults


def _what(needs: Sequence[Need]) -> str:
    others = len({need.what for need in needs}) - 1
    return needs[0].what + (f" (and {others} more)" if others else "")


def _seen(blob: Blob) -> str:
    return shortened(blob.found) if is_digest(blob.found) else blob.found


def _layout_faults(root: Path) -> list[Fault]:
    try:
        if check_layout(root) or not (root / "refs").is_dir():
            return []
        found, fix = "no file", REPAIR
    except MwactlError as error:
        found, fix = error.why or error.what, error.fix or ""
    return [Fault("the layout", layout_path(root), "the number of a layout that this version knows", found, fix)]


# -- putting right -------------------------------------------------------------------------------------------------


def _rewrite(root: Path, selection: Selection | None) -> Census:
    """Write what is known of damaged files until nothing more is; what one of them says may tell of the next."""
    census, done = take_census(root, selection), set[Path]()
    while known := [fault for fault in census.faults if fault.content is not None and fault.file not in done]:
        for fault in known:
            _write(root, fault)
            done.add(fault.file)
        census = take_census(root, selection)
    return census


def _write(root: Path, fault: Fault) -> None:
    """Replace a damaged file in one step, after a copy of it is in `quarantine/`."""
    assert fault.content is not None
    _keep_copy(root, fault.file)
    make_directory(fault.file.parent)
    with staged(root, fault.content) as fresh:
        with suppress(FileNotFoundError):  # a history has to stay one that others may add to, a version as old as it is
            shutil.copystat(fault.file, fresh.path)
        fresh.path.replace(fault.file)
        sync_directory(fault.file.parent)


def _keep_copy(root: Path, file: Path) -> None:
    quarantine = root / "quarantine"
    make_directory(quarantine)
    kept = quarantine / f"{'~'.join(file.relative_to(root / 'refs').parts)}.{os.urandom(4).hex()}"
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return
    except OSError:  # a bad sector, or no file at all: there is nothing to copy, so it goes there itself
        file.replace(kept)
    else:
        with staged(root, data) as copy:
            copy.path.replace(kept)
    sync_directory(quarantine)


def _bring_back(root: Path, store: BlobStore, digest: str) -> int | None:
    """Look in `quarantine/` for a whole copy (a disk that could not be read for a while can make it so); its size."""
    for path in sorted((root / "quarantine").glob(f"{digest}.*")):
        with suppress(OSError):
            if sha256_file(path) == digest:
                return store.put(path)[1]
    return None


def _new_blobs(registry: Registry, census: Census, known: Mapping[str, Blob]) -> dict[str, Blob]:
    """What is needed since pointers were repaired, and was not read before."""
    paths = {BlobStore(registry.root).path(need.digest) for need in census.checked if need.digest not in known}
    return {blob.digest: blob for blob in _read(registry, sorted(path for path in paths if path.exists()))}
