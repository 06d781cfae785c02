from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mwactl.backbone.contract import unit_rows
from mwactl.train import contrastive_loss


def embeddings(rows: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        unit_rows(torch.randn(rows, 5, generator=generator)),
        unit_rows(torch.randn(rows, 5, generator=generator)),
    )


def by_hand(image: Tensor, text: Tensor, scale: float, allowed: Tensor) -> float:
    """The mean of -log p(own) over both directions; `allowed[i, j]`: j is a candidate of i."""
    logits = (scale * image.double() @ text.double().T).tolist()
    size, total = len(logits), 0.0
    for i in range(size):
        row = sum(math.exp(logits[i][j]) for j in range(size) if allowed[i, j])
        column = sum(math.exp(logits[j][i]) for j in range(size) if allowed[j, i])
        total += 2 * -logits[i][i] + math.log(row) + math.log(column)
    return total / (2 * size)


def test_where_all_pairs_differ_it_is_the_symmetric_cross_entropy():
    image, text = embeddings()
    ids = torch.arange(6)
    loss = contrastive_loss(image, text, torch.tensor(7.0), ids, ids)
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert loss.item() == pytest.approx(by_hand(image, text, 7.0, everything), rel=1e-5)


def test_pictures_and_captions_can_change_places():
    image, text = embeddings()
    pictures, captions = torch.tensor([0, 1, 1, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 3, 5])
    there = contrastive_loss(image, text, torch.tensor(7.0), pictures, captions)
    back = contrastive_loss(text, image, torch.tensor(7.0), captions, pictures)
    assert there.item() == pytest.approx(back.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("pictures", "captions"),
    [([0, 1, 1, 2], [0, 1, 2, 3]), ([0, 1, 2, 3], [0, 1, 1, 3])],
    ids=["two captions of one picture", "one caption of two pictures"],
)
def test_right_answers_of_other_rows_are_no_negatives(pictures: list[int], captions: list[int]):
    image, text = embeddings(4)
    text.requires_grad_()
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[1, 2] = allowed[2, 1] = False
    loss = contrastive_loss(image, text, torch.tensor(7.0), torch.tensor(pictures), torch.tensor(captions))
    assert loss.item() == pytest.approx(by_hand(image, text.detach(), 7.0, allowed), rel=1e-5)


def test_no_gradient_reaches_a_candidate_that_is_no_negative():
    # With orthogonal one-hot rows, the gradient of text j along axis i is that of the logit (i, j).
    image, text = torch.eye(4), torch.eye(4).requires_grad_()
    loss = contrastive_loss(image, text, torch.tensor(1.0), torch.tensor([0, 1, 1, 2]), torch.arange(4))
    loss.backward()
    assert text.grad is not None
    logit_gradients = text.grad.T  # [picture, caption]
    assert logit_gradients[1, 2] == logit_gradients[2, 1] == 0
    others = ~torch.eye(4, dtype=torch.bool)
    others[1, 2] = others[2, 1] = False
    assert (logit_gradients[others] > 0).all()
    assert (logit_gradients.diagonal() < 0).all()


def test_a_batch_of_one_picture_has_no_negatives_and_no_loss():
    image, text = embeddings(3)
    loss = contrastive_loss(image, text, torch.tensor(7.0), torch.zeros(3, dtype=torch.long), torch.arange(3))
    assert loss.item() == 0


def test_half_precision_embeddings_give_an_fp32_loss_computed_in_fp32():
    image, text = (rows.bfloat16() for rows in embeddings())
    ids = torch.arange(6)
    loss = contrastive_loss(image, text, torch.tensor(100.0, dtype=torch.bfloat16), ids, ids)
    assert loss.dtype == torch.float32
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert loss.item() == pytest.approx(by_hand(image, text, 100.0, everything), rel=1e-5)
