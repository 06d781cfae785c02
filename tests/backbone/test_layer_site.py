"""A layer that modules attach to: the paper's two equations, and no trace of them after."""

from __future__ import annotations

import torch

from mwactl.backbone.layer_site import HostLayer, layer_sites

X1, X2 = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])


def test_what_is_attached_is_added_for_its_own_modality_and_gone_when_detached() -> None:
    layers = [HostLayer(), HostLayer()]
    site = layer_sites(layers, width=2, eps=1e-5)[1]
    site.attach({"image": lambda x: 3 * x}, {"image": lambda x: x / 2, "text": lambda x: -x})
    assert torch.equal(layers[1].adapted("image", X1, X2), (X2 + 3 * X1) * 1.5)
    assert not layers[1].adapted("text", X1, X2).any()
    assert layers[0].adapted("image", X1, X2) is X2
    site.detach()
    assert layers[1].adapted("image", X1, X2) is X2


def test_modules_of_an_attached_layer_are_not_its_own() -> None:
    layer = HostLayer()
    layer_sites([layer], width=2, eps=1e-5)[0].attach({"image": torch.nn.Linear(2, 2)}, {})
    assert not layer.state_dict()
    assert not list(layer.children())


def test_sites_are_named_by_depth() -> None:
    sites = layer_sites([HostLayer(), HostLayer()], width=2, eps=1e-6)
    assert [(site.name, site.depth, site.width, site.eps) for site in sites] == [
        ("layer/0", 0, 2, 1e-6), ("layer/1", 1, 2, 1e-6),
    ]  # fmt: skip
    assert {site.modalities for site in sites} == {("image", "text")}
