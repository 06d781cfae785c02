"""What a plugin says about a backbone before any of it is built. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mwactl.progress import Reporter, Silent

if TYPE_CHECKING:
    from torch import Tensor

    from mwactl.backbone.contract import Backbone

RANDOM = "random"


@dataclass(frozen=True)
class OfficialFile:
    """A file that a model's authors publish: weights, or a tokenizer.

    Args:
        tag: What users type after `--weights`: `itc`, `coco`; for a tokenizer `tokenizer`.
        filename: The published file name, under which it is kept on this machine.
        url: Where it is published.
        sha256: Its digest, where known beforehand; else the digest of the first download counts.
        summary: What it is, in a few words.
    """

    tag: str
    filename: str
    url: str
    sha256: str | None = None
    summary: str = ""


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
        files: The weights files that `default_weights` and `--weights` can name by tag, where the plugin keeps such a
            list of its own.
        tokenizer: The tokenizer's file, where it has to be fetched like the weights.
    """

    name: str
    family: str
    model: str
    default_weights: str | None = None
    licence: str | None = None
    summary: str = ""
    files: tuple[OfficialFile, ...] = ()
    tokenizer: OfficialFile | None = None


@dataclass(frozen=True)
class WeightsRequest:
    """Which weights to load.

    Args:
        source: A file, a pretrained tag, `random`, or None for the backbone's default.
        seed: The seed of `random`.
        download: Whether the network may be used.
        reporter: Hears of what is fetched.
    """

    source: str | None = None
    seed: int = 0
    download: bool = False
    reporter: Reporter = field(default_factory=Silent, compare=False, repr=False)


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

    def pull(self, spec: BackboneSpec, source: str | None, reporter: Reporter) -> Sequence[Path]:
        """Fetch the weights of a tag (None: the default ones) and the tokenizer, and give their paths. Network!

        The tag of `spec.tokenizer` fetches that alone.

        Raises:
            NotFoundError: No such tag.
            VerificationError: A file is not the one that was published, or fetched before.
            ResourceError: The disk is full.
        """

    def build_without_weights(self, spec: BackboneSpec) -> Backbone:
        """Build the model on the meta device: shapes and counts, no memory, no weights."""


@dataclass(frozen=True)
class ImportHints:
    """What the user says of a checkpoint that another program wrote, where the file does not say it.

    Args:
        alpha: The scale of its Knowledge Extractors.
        layer_norm: Where they normalise: `in` (what they read) or `none`.
    """

    alpha: float | None = None
    layer_norm: str | None = None


@dataclass(frozen=True)
class ForeignAdapter:
    """An adapter that another program wrote, in this toolkit's terms.

    Args:
        backbone: The name of the backbone that it sits on.
        options: The options of the adapter that are not defaults (`method.mwa` of a recipe).
        tensors: Its tensors under the names of an adapted model's `adapter_state`.
        weights: The backbone's tensors that were in the same file, under the names that the plugin's files have.
        sha256: The digest of the file.
        assumed: What neither the file nor the user said, a phrase each.
    """

    backbone: str
    options: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    sha256: str
    assumed: tuple[str, ...] = ()


@runtime_checkable
class ImportsAdapters(Protocol):
    """What a plugin has, besides, that reads adapters of other programs for its family."""

    def read_foreign(self, file: Path, spec: BackboneSpec | None, hints: ImportHints) -> ForeignAdapter | None:
        """Read an adapter and the backbone it was trained on; None where the file holds no adapter for this family.

        Args:
            file: What the other program wrote.
            spec: The backbone, where the user names it.
            hints: What else the user says.

        Raises:
            NotFoundError: No such file.
            VerificationError: The file is damaged, or wants to run code.
            UsageError: A hint contradicts the file.
            IncompatibleError: The adapter cannot be expressed here; says why.
        """
