"""Delete what no reference needs: planned first, done only when asked, and never while anything is in doubt.

Marked are the files of every version and alias, and their attachments; parents are not (a manifest names them by
digest, whether or not they are still here). A removed version's attachments go when its manifest goes, and not before.
What is younger than the grace period stays: it may belong to a publication that has its content on the disk and its
version not yet; where a file system has no locks, nothing else protects that.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mwactl.errors import ResourceError, VerificationError
from mwactl.files import sync_directory
from mwactl.registry.blobs import is_digest
from mwactl.registry.census import take_census
from mwactl.registry.fault import Fault
from mwactl.registry.staging import make_directory
from mwactl.registry.store import Registry
from mwactl.registry.writing import check_layout, writing

GRACE_S = 24 * 3600.0
"""How young a file has to be to stay, in seconds, unless somebody says otherwise."""

_GRACE_WITHOUT_LOCK_S = 60.0
_NS = 1_000_000_000


@dataclass(frozen=True)
class Unneeded:
    """A file that may go."""

    path: Path
    size: int


@dataclass(frozen=True)
class GcPlan:
    """What would be deleted, or was."""

    grace_s: float
    """What is younger stays, in seconds."""
    blobs: Sequence[Unneeded] = ()
    """Blobs that nothing needs."""
    staged: Sequence[Unneeded] = ()
    """What writers that were killed left in `tmp/`."""
    attachments: Sequence[Unneeded] = ()
    """Pointers to results about content that their name no longer has."""
    forgotten: Sequence[str] = ()
    """Removed versions that cannot be restored afterwards."""
    young: int = 0
    """How many files stay for their age alone."""
    quarantined: Sequence[Unneeded] = field(default=())
    """What lies in `quarantine/`, which is never touched."""
    faults: Sequence[Fault] = ()
    """What makes it unknowable what is needed: with one of these nothing is deleted."""
    manifests: frozenset[str] = frozenset()
    """The digests of the manifests among `blobs` that belong to removed versions."""

    @property
    def doomed(self) -> list[Unneeded]:
        """Everything that would be deleted; pointers before what they lead to."""
        return [*self.attachments, *self.blobs, *self.staged]

    @property
    def size_bytes(self) -> int:
        """How much room that makes."""
        return sum(file.size for file in self.doomed)

    def as_dict(self, root: Path) -> dict[str, Any]:
        """For JSON; files are given within the registry."""
        lists = {"blobs": self.blobs, "staged": self.staged, "attachments": self.attachments}
        listed = {key: [_as_dict(file, root) for file in files] for key, files in lists.items()}
        return {
            "grace_s": self.grace_s,
            **listed,
            "size_bytes": self.size_bytes,
            "forgotten": list(self.forgotten),
            "young": self.young,
            "quarantine": {"files": len(self.quarantined), "size_bytes": sum(file.size for file in self.quarantined)},
            "faults": [fault.as_dict(root) for fault in self.faults],
        }


def plan_gc(registry: Registry, grace_s: float = GRACE_S) -> GcPlan:
    """Say what nothing needs; writes nothing and takes no lock.

    Args:
        registry: The registry.
        grace_s: What is younger stays, in seconds; a version that was removed since then keeps its content.

    Returns:
        The plan. Where a reference or a manifest cannot be read, it has `faults` and deletes nothing.

    Raises:
        IncompatibleError: A newer version made this registry.
        VerificationError: The layout file is damaged.
    """
    # Ages are measured from before the references are read, so that what comes meanwhile is young.
    return _plan(registry.root, grace_s, _limit_ns(grace_s))


def apply_gc(registry: Registry, plan: GcPlan) -> GcPlan:
    """Delete what a plan names and what is still not needed now that the registry is locked.

    Returns:
        What was deleted.

    Raises:
        VerificationError: It cannot be known what is needed; nothing was deleted.
        ResourceError: The lock was not free in time; or there are no locks here, and the grace period is too short.
    """
    root = registry.root
    if not root.is_dir():
        return plan
    with writing(
        root, registry.reporter, need_bytes=0, reserve_bytes=0, lock_timeout_s=registry.lock_timeout_s
    ) as is_locked:
        if not is_locked and plan.grace_s < _GRACE_WITHOUT_LOCK_S:
            raise ResourceError(
                "without a lock, files this young cannot be told from those of a publication in progress",
                where=str(root),
                why=f"the file system has no locks, and the grace period is {plan.grace_s:.0f} s",
                fix="mwactl registry gc --apply   (keeps what is younger than a day)",
            )
        limit_ns = _limit_ns(plan.grace_s)
        now = _plan(root, plan.grace_s, limit_ns)
        check_known(now)
        return _delete(root, plan, now, limit_ns)


def check_known(plan: GcPlan) -> None:
    """Look whether a plan could be made.

    Raises:
        VerificationError: It could not.
    """
    if plan.faults:
        count = len(plan.faults)
        raise VerificationError(
            f"{count} reference{'s' if count > 1 else ''} cannot be followed; nothing was deleted",
            where=str(plan.faults[0].file),
            why="what they need is not known, so anything else could be it",
            fix="mwactl registry verify --repair",
        )


def _limit_ns(grace_s: float) -> int:
    return time.time_ns() - round(grace_s * _NS)


def _plan(root: Path, grace_s: float, limit_ns: int) -> GcPlan:
    check_layout(root)
    census = take_census(root, kept_since_ns=limit_ns)
    needed = {need.digest for need in census.needs}
    blobs = [file for file in _blobs(root) if file.path.name not in needed]
    going = {file.path.name for file in _by_age(blobs, limit_ns)[0]}
    kept = [results for results in census.removed_results if results.manifest not in going]
    needed |= {need.digest for results in kept for need in results.needs}
    blobs = [file for file in blobs if file.path.name not in needed]
    quarantined = tuple(_files(root / "quarantine"))
    hiding = [*census.hiding, *(fault for results in kept for fault in results.hiding)]
    faults = hiding or _missing_refs(root, blobs)
    if faults:
        return GcPlan(grace_s, quarantined=quarantined, faults=tuple(faults))
    old, young = _by_age(blobs, limit_ns)
    staged, in_work = _by_age(_files(root / "tmp"), limit_ns)
    pointers = [path for results in census.removed_results if results.manifest in going for path in results.pointers]
    strays = (_unneeded(path) for path in [*census.stray_attachments, *pointers])
    attachments, fresh = _by_age(strays, limit_ns)
    doomed = {file.path.name for file in old}
    removed = [version for version in census.removed if version.digest in doomed]
    forgotten, manifests = tuple(each.reference for each in removed), frozenset(each.digest for each in removed)
    count = len(young) + len(in_work) + len(fresh)
    return GcPlan(
        grace_s, tuple(old), tuple(staged), tuple(attachments), forgotten, count, quarantined, manifests=manifests
    )


def _delete(root: Path, plan: GcPlan, now: GcPlan, limit_ns: int) -> GcPlan:
    """Delete what both plans name: what is needed or young by now stays, and so does what was not announced."""
    announced = {file.path for file in plan.doomed}
    gone: list[list[Unneeded]] = []
    # Without its manifest nobody expects a removed version's results any more: so it is the first to go.
    manifests = [file for file in now.blobs if file.path.name in now.manifests]
    others = [file for file in now.blobs if file.path.name not in now.manifests]
    for files in (manifests, now.attachments, others, now.staged):
        gone.append([file for file in files if file.path in announced and _discard(root, file.path, limit_ns)])
        for directory in {file.path.parent for file in gone[-1]}:
            sync_directory(directory)
    first, attachments, rest, staged = map(tuple, gone)
    forgotten = tuple(reference for reference in now.forgotten if reference in plan.forgotten)
    return GcPlan(plan.grace_s, first + rest, staged, attachments, forgotten, now.young, now.quarantined)


def _discard(root: Path, path: Path, limit_ns: int) -> bool:
    """Delete a file unless it is younger than the limit; whether it is gone.

    Where there are no locks, a publication may put a fresh copy of a blob under this name after the plan was made: so
    the file is taken out of the way first, and put back where what was taken turns out to be that copy.
    """
    make_directory(root / "tmp")
    taken = root / "tmp" / f"{os.urandom(16).hex()}.gone"
    try:
        path.replace(taken)
    except FileNotFoundError:  # another process was quicker
        return False
    if taken.lstat().st_mtime_ns > limit_ns:
        taken.replace(path)
        return False
    taken.unlink()
    return True


def _missing_refs(root: Path, blobs: Sequence[Unneeded]) -> list[Fault]:
    refs = root / "refs"
    if refs.is_dir() or not blobs:
        return []
    fix = "restore it from a backup; if nothing was ever published here, publish something first"
    return [Fault("all names", refs, "a directory", "none, but there are blobs", fix)]


def _by_age(files: Iterable[Unneeded | None], limit_ns: int) -> tuple[list[Unneeded], list[Unneeded]]:
    """The files that are older than a moment, and the others; a file that vanishes meanwhile is neither."""
    old: list[Unneeded] = []
    young: list[Unneeded] = []
    for file in files:
        try:
            if file is not None:
                (young if file.path.lstat().st_mtime_ns > limit_ns else old).append(file)
        except FileNotFoundError:
            continue
    return old, young


def _blobs(root: Path) -> Iterator[Unneeded]:
    try:
        fans = sorted((root / "blobs" / "sha256").iterdir())
    except FileNotFoundError:
        return
    for fan in fans:
        yield from (file for file in _files(fan) if is_digest(file.path.name) and file.path.name[:2] == fan.name)


def _files(directory: Path) -> Iterator[Unneeded]:
    """The regular files in a directory, which need not exist."""
    try:
        paths = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (file for file in map(_unneeded, paths) if file is not None)


def _unneeded(path: Path) -> Unneeded | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return Unneeded(path, found.st_size) if stat.S_ISREG(found.st_mode) else None


def _as_dict(file: Unneeded, root: Path) -> dict[str, Any]:
    return {"file": file.path.relative_to(root).as_posix(), "size_bytes": file.size}
