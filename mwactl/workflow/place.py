"""Where an adapter's backbone lies on this machine. That is no part of what the adapter is.

A manifest names a backbone by what is the same everywhere: its name, its fingerprint and the digest of its weights
file. Paths are attached to the entry when it is published here, and again when a user says where they are now.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mwactl.backbone.contract import Backbone
from mwactl.backbone.local_folder import LOCAL_DIR
from mwactl.registry import Entry, Registry

#: What is about this machine alone: it never leaves it in a bundle.
KIND = "local-place"


@dataclass(frozen=True)
class Place:
    """Where a backbone is.

    Args:
        backbone: Its name on this machine.
        weights: Its weights file, where it is one that no tag names.
    """

    backbone: str
    weights: str | None


def portable_name(backbone: str) -> str:
    """A backbone's name without the place of its folder: `clip:local-dir:my-clip`."""
    family, is_local, folder = backbone.partition(LOCAL_DIR)
    return f"{family}{LOCAL_DIR}{Path(folder).name}" if is_local else backbone


def remember(registry: Registry, entry: Entry, backbone: Backbone) -> None:
    """Attach the place of a backbone that only its path can name; saying it again attaches nothing.

    Raises:
        ResourceError: No space, or the registry is locked.
    """
    is_file = backbone.weights.source == "file" and backbone.weights.path is not None
    name = backbone.spec.name
    if is_file or portable_name(name) != name:
        registry.attach(entry, KIND, {"backbone": name, "weights": str(backbone.weights.path) if is_file else None})


def recall(registry: Registry, entry: Entry) -> Place:
    """The place that was said last, or what the manifest says."""
    base = entry.manifest["base"]
    said = [place["document"] for place in registry.attachments(entry, KIND) if place.get("document")]
    if said:
        return Place(said[-1]["backbone"], said[-1]["weights"])
    return Place(base["backbone"], base["weights"].get("path"))
