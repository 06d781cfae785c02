"""mwactl: the whole life of an adapter in image-text retrieval. `mwactl.api` is all of it for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwactl.api import Encoder

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(name: str | None = None, *, device: str = "auto", download: bool = False) -> Encoder:
    """As `mwactl.api.load`."""
    from mwactl import api  # heavier than a version number should be

    return api.load(name, device=device, download=download)
