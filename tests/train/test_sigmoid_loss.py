from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mwactl.backbone.contract import unit_rows
from mwactl.train.sigmoid_loss import first_bias, sigmoid_loss

PICTURES, CAPTIONS, OWNERS = (
    torch.tensor([0, 1, 1, 2]),
    torch.tensor([0, 1, 2, 3, 3, 4]),
    torch.tensor([0, 0, 1, 2, 3, 3]),
)


def embeddings(rows: int, seed: int) -> Tensor:
    return unit_rows(torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed)))


def by_hand(image: Tensor, text: Tensor, scale: float, bias: float, right: set[tuple[int, int]], owners: list[int]):
    """The sum of -log σ(±z), pair by pair."""
    logits = (scale * image.double() @ text.double().T + bias).tolist()
    total = sum(math.log1p(math.exp(-logits[picture][caption])) for caption, picture in enumerate(owners))
    for picture, row in enumerate(logits):
        total += sum(math.log1p(math.exp(z)) for caption, z in enumerate(row) if (picture, caption) not in right)
    return total / len(owners)


def test_every_pair_is_a_question_of_its_own():
    image, text, ids = embeddings(5, 0), embeddings(5, 1), torch.arange(5)
    loss = sigmoid_loss(image, text, torch.tensor(7.0), torch.tensor(-2.0), ids, ids)
    diagonal = {(i, i) for i in range(5)}
    assert loss.item() == pytest.approx(by_hand(image, text, 7.0, -2.0, diagonal, list(range(5))), rel=1e-5)


@pytest.mark.parametrize("block", [None, 1, 4])
def test_right_answers_of_other_rows_are_left_out_whatever_is_held_at_once(block):
    image, text = embeddings(4, 0).requires_grad_(), embeddings(6, 1)
    loss = sigmoid_loss(
        image, text, torch.tensor(7.0), torch.tensor(-2.0), PICTURES, CAPTIONS, OWNERS, block=block
    )  # fmt: skip
    right = {(picture, caption) for caption, picture in enumerate(OWNERS.tolist())}
    right |= {(1, 3), (2, 2)}  # pictures 1 and 2 are one
    right |= {(2, 4), (3, 3)}  # captions 3 and 4 are one
    expected = by_hand(image.detach(), text, 7.0, -2.0, right, OWNERS.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert image.grad is not None
    whole = sigmoid_loss(image, text, torch.tensor(7.0), torch.tensor(-2.0), PICTURES, CAPTIONS, OWNERS)
    torch.testing.assert_close(image.grad, torch.autograd.grad(whole, image)[0])


def test_temperature_and_bias_get_gradients():
    scale, bias = torch.tensor(7.0, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    sigmoid_loss(embeddings(4, 0), embeddings(4, 1), scale, bias, torch.arange(4), torch.arange(4)).backward()
    assert scale.grad.abs() > 0 and bias.grad.abs() > 0


def test_the_first_bias_makes_the_sigmoid_of_a_pair_its_softmax_on_average():
    image, text, ids = embeddings(6, 0), embeddings(6, 1), torch.arange(6)
    scale = torch.tensor(30.0)
    bias = first_bias(image, text, scale, ids, ids)
    logits = 30.0 * text @ image.T
    partitions = [torch.cat([row[:i], row[i + 1 :]]).logsumexp(0) for i, row in enumerate(logits)]
    assert bias.item() == pytest.approx(-torch.stack(partitions).mean().item(), rel=1e-5)


def test_a_batch_without_negatives_starts_at_zero():
    same = torch.zeros(2, dtype=torch.int64)
    assert first_bias(embeddings(2, 0), embeddings(2, 1), torch.tensor(9.0), same, same).item() == 0.0
