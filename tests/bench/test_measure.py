from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from mwactl.bench.batch import Batch
from mwactl.bench.contestant import Contestant
from mwactl.bench.measure import counting_flops, matmul_rate, saved_bytes_per_pair
from mwactl.bench.step import Stepper


class Towers(nn.Module):
    """Two maps whose saved tensors can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(12, 5), nn.Embedding(50, 5)
        self.logit_scale = nn.Parameter(torch.zeros(()), requires_grad=False)

    def encode_image(self, pixels):
        return self.image(pixels.flatten(1)).exp()

    def encode_text(self, tokens):
        return self.text(tokens[:, 0])

    def trainable(self):
        return dict(self.named_parameters())


@pytest.fixture
def towers():
    model = Towers()
    return Stepper(Contestant(model, model, model.logit_scale), torch.device("cpu"))


def tiny_batch(pairs=4):
    return Batch(torch.randn(pairs, 3, 2, 2), torch.randint(1, 50, (pairs, 1, 7)), padding=0)


def test_saved_bytes_are_those_of_activations_alone(towers):
    """One more pair: the exponential's result, what normalising keeps of both towers, and a row and column of logits.

    Neither the weights nor the pictures count, although autograd saves both.
    """
    small, row = saved_bytes_per_pair(towers, tiny_batch(), "fp32"), 5 * 4
    assert small > 3 * row
    large = Batch(torch.randn(4, 3, 20, 20), torch.randint(1, 50, (4, 1, 700)), padding=0)
    towers.contestant.module.image = nn.Linear(1200, 5)
    assert saved_bytes_per_pair(towers, large, "fp32") == small


def test_an_activation_that_is_saved_twice_counts_once(towers):
    plain = towers.contestant.module.image
    towers.contestant.model.encode_image = lambda pixels: plain(pixels.flatten(1)).exp().square()
    once = saved_bytes_per_pair(towers, tiny_batch(), "fp32")
    towers.contestant.model.encode_image = lambda pixels: (h := plain(pixels.flatten(1)).exp()) * h
    assert saved_bytes_per_pair(towers, tiny_batch(), "fp32") == once


def test_one_more_saved_tensor_counts_with_its_bytes(towers):
    before = saved_bytes_per_pair(towers, tiny_batch(), "fp32")
    plain = towers.contestant.module.image
    towers.contestant.model.encode_image = lambda pixels: plain(pixels.flatten(1)).exp().sigmoid()
    assert saved_bytes_per_pair(towers, tiny_batch(), "fp32") == before + 5 * 4


@pytest.mark.parametrize(
    "family",
    [
        pytest.param("beit3", marks=pytest.mark.skipif(find_spec("torchscale") is None, reason="needs torchscale")),
        "clip",
        "vlmo",
    ],
)
def test_ours_saves_less_than_half_of_the_plain_step(worker_of, setup_of, family):
    setup = setup_of(family)
    saved = {name: worker_of(name, setup).saved_bytes() for name in ("full", "mwa-plain", "mwa")}
    share = {"beit3": 0.5, "vlmo": 0.5, "clip": 0.9}[family]  # CLIP's text is causal and its context here is short
    assert saved["mwa"] < share * saved["mwa-plain"]
    assert saved["mwa-plain"] < saved["full"]


def test_several_captions_a_picture_save_less_per_pair(worker_of, setup_of):
    setup = setup_of("beit3")
    assert worker_of("mwa-k", setup).saved_bytes() < worker_of("mwa", setup).saved_bytes()


def test_operations_are_counted_forward_and_backward():
    x, w = torch.randn(4, 8), torch.randn(8, 16, requires_grad=True)

    def step():
        loss = (x @ w).sum()
        loss.backward()
        return loss

    _, flops = counting_flops(step)
    assert flops == 2 * (2 * 4 * 8 * 16)  # the product, and the weight's gradient


def test_the_rate_of_matrix_products_is_a_positive_number(monkeypatch):
    monkeypatch.setattr("mwactl.bench.measure._MATMUL_SIZE", {"cpu": 64})
    assert matmul_rate(torch.device("cpu"), "fp32") > 0
    assert matmul_rate(torch.device("cpu"), "bf16") > 0
