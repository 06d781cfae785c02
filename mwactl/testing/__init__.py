"""For whoever writes a backbone: the whole contract as one call in a test.

from mwactl.testing import check_backbone

def test_the_backbone_keeps_the_contract():
    check_backbone("my-encoder", weights="random")
"""

from mwactl.testing.check import CHECKS, check_backbone

__all__ = ["CHECKS", "check_backbone"]
