"""Where things are kept: can it be written to, is there space, and is what is there whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mwactl import home
from mwactl.registry.blobs import BlobStore
from mwactl.registry.census import take_census
from mwactl.registry.writing import check_layout
from mwactl.workflow.doctor.finding import Finding, State, gigabytes

_LITTLE_SPACE = 1e9


def find_places() -> Iterator[Finding]:
    """Each directory that the toolkit writes to."""
    yield _place("home", home.home(), "MWACTL_HOME")
    yield _place("cache", home.cache_path(), "MWACTL_HOME")
    yield _place("runs", home.runs_path(), "MWACTL_HOME")
    yield _place("registry", home.registry_path(), "MWACTL_REGISTRY")


def find_registry() -> Iterator[Finding]:
    """The registry, without reading the adapters' bytes."""
    root = home.registry_path()
    if not (root / "refs").is_dir():
        yield Finding("registry content", State.OK, "empty", facts={"versions": 0, "faults": []})
        return
    check_layout(root)
    census, store = take_census(root), BlobStore(root)
    gone = [need.what for need in census.checked if not store.path(need.digest).exists()]
    faults = list(dict.fromkeys([*(fault.what for fault in census.faults), *gone]))
    facts = {"versions": census.versions, "faults": faults}
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        yield Finding(
            "registry content", State.BROKEN, f"damaged: {faults[0]}{more}", "mwactl registry verify", facts=facts
        )
    else:
        counted = f"{census.versions} version{'s' * (census.versions != 1)}"
        detail = f"{counted}, nothing lost (`mwactl registry verify` reads every byte)"
        yield Finding("registry content", State.OK, detail, facts=facts)


def _place(name: str, path: Path, variable: str) -> Finding:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    facts = {"path": str(path), "exists": path.exists()}
    fix = f"{variable}=/a/folder/of/yours"
    if not existing.is_dir():
        return Finding(name, State.BROKEN, f"{path}: {existing} is no folder", fix, required=True, facts=facts)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(name, State.BROKEN, f"{path} cannot be written to", fix, required=True, facts=facts)
    free = shutil.disk_usage(existing).free
    facts |= {"free_bytes": free}
    detail = f"{path}, {gigabytes(free)} free" + ("" if path.exists() else " (made when it is needed)")
    if free < _LITTLE_SPACE:
        scarce, more = f"little space: {detail}", f"free some space, or {fix}"
        return Finding(name, State.MISSING, scarce, more, required=True, facts=facts)
    return Finding(name, State.OK, detail, facts=facts, required=True)
