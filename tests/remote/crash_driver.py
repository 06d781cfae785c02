"""Kill a pull before every system call and every read from the network, and look at what is left.

    python crash_driver.py DIRECTORY ADDRESS DIGEST

Prints `{"calls": …, "kills": …, "failures": […]}`. Forks, so that a hundred kills take seconds; the server is another
process's.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock  # noqa: F401  (before the fork: an import in the child would be counted)

from mwactl.registry import BrokenEntry, Registry
from mwactl.remote import open_remote, plan_pull, pull

CALLS = ("open", "write", "fsync", "replace", "rename", "link", "unlink", "chmod", "utime", "mkdir")


def fetch(root: Path, address: str) -> str:
    registry, remote = Registry(root), open_remote(address)
    return pull(registry, remote, plan_pull(registry, remote)).digest


def kill_at(moment: int) -> None:
    """From now on this process dies before call number `moment`."""
    calls = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))
    read = http.client.HTTPResponse.read
    # A little at a time, so that there are reads to die between.
    little = lambda self, size=None: read(self, size if size is None else min(size, 40_000))  # noqa: E731
    http.client.HTTPResponse.read = wrap(little)  # type: ignore[method-assign]


def check(root: Path, address: str, digest: str) -> None:
    """What must hold after any kill: nothing half-made is visible, and the next pull succeeds and cleans up."""
    entries = Registry(root).entries()
    assert not [entry for entry in entries if isinstance(entry, BrokenEntry)], f"half-made: {entries}"
    assert [entry.version for entry in entries] in ([], [1])
    for entry in entries:
        for file in entry.manifest["files"]:
            Registry(root).read(entry, file["path"])
    assert fetch(root, address) == digest
    registry = Registry(root)
    assert [entry.version for entry in registry.entries()] == [1]
    assert len(registry.attachments(registry.resolve("coco-mwa"))) == 1
    assert [path.name for path in (home() / "cache" / "incoming").iterdir()] == ["lock"]


def home() -> Path:
    return Path(os.environ["MWACTL_HOME"])


def survive(root: Path, address: str, moment: int) -> bool:
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(home(), ignore_errors=True)
    child = os.fork()
    if child == 0:
        kill_at(moment)
        fetch(root, address)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"the pull failed by itself at moment {moment}")
    return os.WIFSIGNALED(status)


def main(directory: Path, address: str, digest: str) -> None:
    os.environ["MWACTL_HOME"] = str(directory / "home")
    root = directory / "registry"
    failures, moment = [], 0
    while survive(root, address, moment):
        try:
            check(root, address, digest)
        except Exception as error:
            failures.append(f"moment {moment}: {type(error).__name__} {error}")
        moment += 1
    json.dump({"kills": moment, "failures": failures}, sys.stdout)


main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
