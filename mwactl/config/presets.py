"""What a preset stands for where a recipe leaves an option of the MultiWay-Adapter unset. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mwactl.config.recipe import MwaConfig

#: The paper names no α and no dropout, which are then 1 and none; the public code's are its flags' defaults.
_VALUES: dict[str, dict[str, Any]] = {
    "paper": {"alpha": 1.0, "layer_norm": True, "dropout": 0.0},
    "authors-code": {"alpha": 0.1, "layer_norm": False, "dropout": 0.1},
}


@dataclass(frozen=True, kw_only=True)
class CompleteMwaConfig(MwaConfig):
    """The options of an adapter with nothing left unset."""

    alpha: float | Literal["learned"]
    layer_norm: bool
    dropout: float


def complete(config: MwaConfig) -> CompleteMwaConfig:
    """The options with the preset's values for those that are unset."""
    given = {name: value for name, value in vars(config).items() if value is not None}
    return CompleteMwaConfig(**{**_VALUES[config.preset], **given})
