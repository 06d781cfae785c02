"""What every write to the registry begins with: room on the disk, the lock, a layout that this version knows."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mwactl.errors import IncompatibleError, ResourceError, VerificationError
from mwactl.files import sync_directory
from mwactl.progress import Reporter
from mwactl.registry.staging import make_directory, staged, write_failures

if TYPE_CHECKING:
    from filelock import FileLock

LAYOUT = 1
_SPARE_BYTES = 64 * 2**20
_POLL_S = 0.01
_SILENT_WAIT_S = 2.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def writing(
    root: Path, reporter: Reporter, *, need_bytes: int, lock_timeout_s: float, reserve_bytes: int = _SPARE_BYTES
) -> Iterator[bool]:
    """Prepare the registry for a write, and hold its lock meanwhile.

    What makes room, or only changes pointers, asks for no reserve: it has to work on a full disk too.

    The lock spares writers repeated work; what is written is right without it (`numbered.py` says how). Gives whether
    there is one: some file systems have no locks.

    Raises:
        ResourceError: The disk has less than `need_bytes` and the reserve, or the lock was not free in time.
        IncompatibleError: A newer version made this registry.
        MwactlError: This user may not write there.
    """
    check_space(root, need_bytes, reserve_bytes)
    with write_failures(root, need_bytes):
        make_directory(root)
        with _locked(root, reporter, lock_timeout_s) as is_locked:
            if not check_layout(root):
                _make_layout(root)
            yield is_locked


def check_space(root: Path, need_bytes: int, reserve_bytes: int = _SPARE_BYTES) -> None:
    """Look whether the disk has `need_bytes` and a reserve.

    Raises:
        ResourceError: It has not.
    """
    existing = next(path for path in (root, *root.parents) if path.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < need_bytes + reserve_bytes:
        need_mb, free_mb = (need_bytes + reserve_bytes) / 1e6, free_bytes / 1e6
        reserve = f" ({reserve_bytes / 1e6:.0f} MB of it in reserve)" if reserve_bytes else ""
        raise ResourceError(
            "not enough space; nothing was written",
            where=str(root),
            why=f"{need_mb:,.1f} MB are needed{reserve}, {free_mb:,.1f} MB are free",
            fix="free some space, or move the registry to a larger disk and set MWACTL_REGISTRY",
        )


def layout_path(root: Path) -> Path:
    """The file with the number of the registry's layout."""
    return root / "layout.json"


def check_layout(root: Path) -> bool:
    """Look whether this version may write to a registry; False where nobody has written to it yet.

    Raises:
        IncompatibleError: A newer version made this registry.
        VerificationError: The layout file is damaged.
    """
    path = layout_path(root)
    try:
        layout = json.loads(path.read_bytes())["layout"]
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise VerificationError(
            "the registry's layout file is damaged, so nothing is written",
            where=str(path),
            fix=f'write {{"layout": {LAYOUT}}} into it, if this version made the registry',
        ) from error
    if layout != LAYOUT:
        raise IncompatibleError(
            "a newer mwactl made this registry; it can be read, not written",
            where=str(path),
            why=f"its layout is {layout!r}, this version writes {LAYOUT}",
            fix="pip install --upgrade mwactl",
        )
    return True


def _make_layout(root: Path) -> None:
    with staged(root, json.dumps({"layout": LAYOUT}).encode() + b"\n") as fresh:
        fresh.path.replace(layout_path(root))
        sync_directory(root)


@contextmanager
def _locked(root: Path, reporter: Reporter, timeout_s: float) -> Iterator[bool]:
    from filelock import FileLock  # in here: reading the registry needs no lock, and listing it should be quick

    lock = FileLock(root / "lock")
    try:
        _acquire(lock, reporter, timeout_s)
    except TimeoutError as error:  # `filelock.Timeout` is one
        raise ResourceError(
            "another process is writing to the registry",
            where=str(root),
            why=f"its lock was not free for {timeout_s:.0f} s",
            fix="try again when the other process has finished (a killed one holds no lock)",
        ) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        reporter.warn(f"this file system has no locks; going on without one ({root})")
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _acquire(lock: FileLock, reporter: Reporter, timeout_s: float) -> None:
    first_s = min(_SILENT_WAIT_S, timeout_s)
    try:
        lock.acquire(timeout=first_s, poll_interval=_POLL_S)
    except TimeoutError:
        if timeout_s <= first_s:
            raise
        reporter.info(f"waiting for another process that writes to the registry (up to {timeout_s:.0f} s)")
        lock.acquire(timeout=timeout_s - first_s, poll_interval=_POLL_S)
