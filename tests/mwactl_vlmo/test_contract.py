"""The contract, as anyone's plugin is held to it."""

from __future__ import annotations

from pathlib import Path

from mwactl.testing import CHECKS, check_backbone


def test_the_backbone_keeps_the_contract(tiny_vlmo: Path) -> None:
    """All of it but the graphs, which test_export.py traces."""
    assert check_backbone(f"vlmo:local-dir:{tiny_vlmo}", only=CHECKS.keys() - {"graphs"}) == {}
