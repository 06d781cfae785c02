from mwactl.testing import check_backbone


def test_the_backbone_keeps_the_contract():
    check_backbone("my-encoder", weights="random")
