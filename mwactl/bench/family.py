"""What a comparison knows of a family of backbones beyond the contract: its captions' ids and its plain structure.

A family that is not listed can be compared as well: without the plain variants, and on captions of real data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mwactl.adapter import AdaptedModel
from mwactl.backbone.contract import Backbone
from mwactl.bench.plain import PlainModel
from mwactl.bench.setup import UnavailableError

#: (The model with its values, whether attention is fused) -> the same function, written the plain way.
MakePlain = Callable[[AdaptedModel, bool], PlainModel]


@dataclass(frozen=True)
class Family:
    """One family.

    Args:
        padding: The id that fills captions up.
        vocabulary: Rows of the text embedding.
        plain: The name of the module here that has its plain structure.
    """

    padding: int
    vocabulary: Callable[[Any], int]
    plain: str | None

    def make_plain(self, model: AdaptedModel, *, fused: bool) -> PlainModel:
        """The model's function, written the plain way, with the model's own tensors.

        Raises:
            UnavailableError: The plain structure is not known, or what it is made of is not installed.
        """
        if self.plain is None:
            raise UnavailableError(f"no plain structure of the family `{model.backbone.spec.family}` is known")
        made: PlainModel = import_module(f"mwactl.bench.{self.plain}").make_plain(model, fused=fused)
        return made


_FAMILIES = {
    "beit3": Family(1, lambda backbone: int(backbone.model.beit3.config.vocabulary), "plain_beit3"),
    "clip": Family(0, lambda backbone: int(backbone.model.vocab_size), "plain_clip"),
    "vlmo": Family(0, lambda backbone: int(backbone.model.config.vocabulary), "plain_vlmo"),
}


def family_of(backbone: Backbone) -> Family | None:
    """The family of a backbone, or None."""
    return _FAMILIES.get(backbone.spec.family)
