"""What a method may add to a frozen backbone, whatever the method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import nn

from mwactl.backbone.contract import Backbone, Modality


class Adapter(nn.Module, ABC):
    """Modules beside a backbone's own: they own every parameter they add, and rename none of the backbone's."""

    @abstractmethod
    def attach_to(self, backbone: Backbone) -> None:
        """Let the backbone compute with these modules."""

    @abstractmethod
    def detach_from(self, backbone: Backbone) -> None:
        """Let the backbone compute without them again."""

    @abstractmethod
    def branches(self, modality: Modality) -> Iterator[nn.Module]:
        """The modules that this modality's tokens pass through."""

    @abstractmethod
    def adds_nothing(self, modality: Modality) -> bool:
        """Whether the adapter cannot change this modality's embeddings, as before training."""

    @abstractmethod
    def module_counts(self) -> dict[str, int]:
        """How many modules of each kind there are."""

    @abstractmethod
    def description(self) -> str:
        """What it is, in a line."""
