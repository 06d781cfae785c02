"""What a plugin says about a backbone before any of it is built. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mwactl.backbone.contract import Backbone

RANDOM = "random"


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone by name.

    Args:
        name: What users type: `clip-vit-b-32`, `clip:ViT-B-32/openai`, `clip:local-dir:FOLDER`.
        family: The plugin's name.
        model: The family's own name of the architecture, or a folder.
        default_weights: The weights used when none are asked for: a tag, or None where weights must be named.
        licence: The licence of the default weights, where known.
        summary: Sizes in a few words, for lists.
    """

    name: str
    family: str
    model: str
    default_weights: str | None = None
    licence: str | None = None
    summary: str = ""


@dataclass(frozen=True)
class WeightsRequest:
    """Which weights to load.

    Args:
        source: A file, a pretrained tag, `random`, or None for the backbone's default.
        seed: The seed of `random`.
        download: Whether the network may be used.
    """

    source: str | None = None
    seed: int = 0
    download: bool = False


@dataclass(frozen=True)
class WeightsUsed:
    """Which weights were loaded, as the lineage records it.

    Args:
        source: `random`, a tag, or `file`.
        path: The absolute path of the file that was read, if one was.
        file_sha256: Its digest.
        seed: The seed of `random`.
    """

    source: str
    path: Path | None = None
    file_sha256: str | None = None
    seed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}


class BackbonePlugin(Protocol):
    """What the entry point `mwactl.backbones` gives. Importing it must not import torch."""

    family: str

    def specs(self) -> Sequence[BackboneSpec]:
        """The backbones that have a short name."""

    def parse(self, name: str) -> BackboneSpec | None:
        """The spec of a name of this family that is not in `specs()`, such as `clip:MODEL/TAG`; None if not ours.

        Raises:
            NotFoundError: The name is of this family, but no such model exists.
        """

    def build(self, spec: BackboneSpec, weights: WeightsRequest) -> Backbone:
        """Build the model in fp32 on the CPU, in evaluation mode and frozen, and load its weights.

        Raises:
            NotFoundError: The weights are not on this machine; `fix` says how to get them.
            IncompatibleError: The weights are not this model's.
        """

    def build_without_weights(self, spec: BackboneSpec) -> Backbone:
        """Build the model on the meta device: shapes and counts, no memory, no weights."""
