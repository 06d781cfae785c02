"""What open_clip needs to build a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ClipConfig:
    """What open_clip needs to build a model.

    Args:
        model_cfg: open_clip's model configuration.
        preprocess: What differs from open_clip's default preprocessing.
        folder: The model's own folder, for `local-dir`.
    """

    model_cfg: dict[str, Any]
    preprocess: dict[str, Any]
    folder: Path | None
