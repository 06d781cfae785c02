"""Where the toolkit keeps things: `MWACTL_HOME` moves everything, `MWACTL_REGISTRY` the registry alone."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The directory of everything the toolkit keeps (catalogue, cache, runs, registry)."""
    configured = os.environ.get("MWACTL_HOME")
    return Path(configured).expanduser() if configured else platformdirs.user_data_path("mwactl")


def registry_path() -> Path:
    """The directory of the adapter registry."""
    configured = os.environ.get("MWACTL_REGISTRY")
    return Path(configured).expanduser() if configured else home() / "registry"


def catalogue_path() -> Path:
    """The file that remembers which data sets the user has added."""
    return home() / "data.json"


def cache_path() -> Path:
    """The directory of things that can be deleted and made again (scans of data sets, converted weights)."""
    return home() / "cache"


def weights_path() -> Path:
    """The directory of official weights and tokenizer files, under the names their authors gave them."""
    return home() / "weights"


def runs_path() -> Path:
    """The directory of training runs: checkpoints, logs, the recipe as it was used."""
    return home() / "runs"
