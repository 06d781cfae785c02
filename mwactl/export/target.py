"""Where an export is made, and how it appears: beside its target, and then whole under its name."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mwactl.errors import ResourceError, UsageError
from mwactl.files import naming_write_errors, sync_directory
from mwactl.runtime import is_bundle

_AT_CURRENT_DIRECTORY = -100
_LINUX_EXCHANGE, _MAC_SWAP = 2, 2


def place_of(target: Path) -> Path:
    """Where a target lies, from the root on and without `..`.

    Raises:
        UsageError: It is the folder that the user is in, or holds it: that cannot be put in place.
    """
    here = Path.cwd()
    place = Path(os.path.normpath(here / target))
    if place in (here, *here.parents):
        raise UsageError(
            "a bundle cannot replace the folder that you are in",
            where=str(place),
            fix="-o DIR with a new folder's name",
        )
    return place


def check_free(target: Path, *, force: bool) -> None:
    """Refuse a target before any work is done.

    Raises:
        UsageError: It exists and may not be replaced: without `force` never, with it only if it is a bundle.
    """
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not is_bundle(target):
        raise UsageError(
            "this is no bundle, so nothing there is replaced", where=str(target), fix="-o DIR with a new folder's name"
        )
    if not force:
        raise UsageError(
            "there is a bundle already", where=str(target), fix="--force to replace it, or -o DIR for another folder"
        )


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, to work in; it is gone at the end, whatever happens.

    What a killed run left there is removed first.

    Raises:
        ResourceError: Another process exports to the same target, or this user may not write there.
        UsageError: No folder can be made there.
    """
    folder = target.with_name(f".{target.name}.part")
    with naming_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
    try:
        _empty(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def publish(folder: Path, target: Path, *, force: bool) -> None:
    """Let a finished folder appear under its name, all of it on the disk first; with `force` in place of a bundle.

    Raises:
        UsageError: Something has come to be there meanwhile that may not be replaced.
        ResourceError: The disk is full.
    """
    check_free(target, force=force)
    with naming_write_errors(target):
        for path in sorted(folder.iterdir()):
            _sync(path)
        sync_directory(folder)
        if target.is_dir() and any(target.iterdir()):
            _exchange(folder, target)
        else:
            folder.replace(target)
        sync_directory(target.parent)


def _locked(folder: Path) -> int:
    """The descriptor of a folder that no other process has locked."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # its owner has just removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise ResourceError(
                "another export to this folder is running", where=str(folder), fix="wait for it, or choose -o DIR"
            ) from error
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(folder: Path, target: Path) -> None:
    """Swap two folders in one step; what was the target is then where `folder` was.

    Where the system or the file system has no such step, there are two: should the process be killed between them, the
    old folder lies beside the target until it is renamed back by hand.
    """
    if _exchange_at_once(folder, target):
        return
    aside = target.with_name(f".{target.name}.old")
    target.replace(aside)
    try:
        folder.replace(target)
    except BaseException:
        aside.replace(target)
        raise
    aside.replace(folder)


def _exchange_at_once(folder: Path, target: Path) -> bool:
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(folder), os.fsencode(target)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_CURRENT_DIRECTORY, first, _AT_CURRENT_DIRECTORY, second, _LINUX_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(first, second, _MAC_SWAP)
    else:
        return False
    number = ctypes.get_errno()
    if failed and number not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(target))
    return not failed
