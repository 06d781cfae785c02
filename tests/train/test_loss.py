from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mwactl.backbone.contract import unit_rows
from mwactl.train import contrastive_loss, loss
from mwactl.train.loss import multi_caption_loss


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


# -- several captions a picture ---------------------------------------------------------------------------------------

# Pictures 0 and 2 have the same bytes; caption 3 of picture 1 has the words of caption 1 of picture 0, and captions 4
# and 5 of picture 2 are the same words twice.
PICTURES = torch.tensor([7, 8, 7, 9, 4])
CAPTIONS = torch.tensor([0, 1, 2, 1, 5, 5, 6, 7, 8])
OWNERS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 4])


def uneven(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of 5 pictures and their 9 captions, and a scale, that collect gradients."""
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(5, 6, generator=generator), torch.randn(9, 6, generator=generator)
    return unit_rows(image).requires_grad_(), unit_rows(text).requires_grad_(), torch.tensor(7.0, requires_grad=True)


def several_by_hand(image: Tensor, text: Tensor, scale: float) -> float:
    """The docstring's definition, picture by picture and caption by caption."""
    s = (scale * image.double() @ text.double().T).tolist()
    pictures, captions, owners = PICTURES.tolist(), CAPTIONS.tolist(), OWNERS.tolist()
    own = [[t for t in range(9) if owners[t] == i] for i in range(5)]

    def right(i: int, t: int) -> bool:
        return pictures[owners[t]] == pictures[i] or any(captions[t] == captions[u] for u in own[i])

    def lost(mine: float, others: list[float]) -> float:
        return -math.log(math.exp(mine) / (math.exp(mine) + sum(map(math.exp, others))))

    to_image = sum(lost(s[owners[t]][t], [s[j][t] for j in range(5) if not right(j, t)]) for t in range(9)) / 9
    to_text = 0.0
    for i in range(5):
        others = [s[i][u] for u in range(9) if not right(i, u)]
        to_text += sum(lost(s[i][t], others) for t in own[i]) / len(own[i]) / 5
    return (to_image + to_text) / 2


@pytest.mark.parametrize("block", [None, 1, 2, 4, 100])
def test_several_captions_give_the_defined_loss_whatever_the_block(block: int | None):
    image, text, scale = uneven()
    loss = multi_caption_loss(image, text, scale, PICTURES, CAPTIONS, OWNERS, block=block)
    assert loss.item() == pytest.approx(several_by_hand(image.detach(), text.detach(), 7.0), rel=1e-6)


def test_the_order_of_the_captions_does_not_matter():
    image, text, scale = uneven()
    order = torch.tensor([4, 8, 0, 2, 6, 1, 7, 5, 3])
    one = multi_caption_loss(image, text, scale, PICTURES, CAPTIONS, OWNERS)
    other = multi_caption_loss(image, text[order], scale, PICTURES, CAPTIONS[order], OWNERS[order])
    assert one.item() == pytest.approx(other.item(), rel=1e-6)


def test_contrastive_loss_takes_the_owners_of_the_captions():
    image, text, scale = uneven()
    loss = contrastive_loss(image, text, scale, PICTURES, CAPTIONS, OWNERS)
    assert loss.item() == pytest.approx(several_by_hand(image.detach(), text.detach(), 7.0), rel=1e-6)


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("block", [None, 1, 5, 16, 23])
def test_with_one_caption_a_picture_it_is_the_contrastive_loss_and_so_are_its_gradients(block: int | None):
    """In blocks too: of one row, of an odd rest, and of all rows but one."""
    image, text = (rows.requires_grad_() for rows in embeddings(24))
    scale = torch.tensor(20.0, requires_grad=True)
    pictures, captions = torch.arange(24), torch.arange(24)
    pictures[5] = pictures[9] = 3
    captions[8] = captions[20] = 9
    whole = contrastive_loss(image, text, scale, pictures, captions)
    blocks = multi_caption_loss(image, text, scale, pictures, captions, torch.arange(24), block=block)
    assert blocks.item() == pytest.approx(whole.item(), rel=1e-6)
    for found, true in zip(gradients(blocks, image, text, scale), gradients(whole, image, text, scale), strict=True):
        assert (found - true).norm() <= 1e-6 * true.norm()


def test_a_large_batch_is_worked_off_in_blocks(monkeypatch: pytest.MonkeyPatch):
    image, text = embeddings(40)
    ids = torch.arange(40)
    whole = contrastive_loss(image, text, torch.tensor(9.0), ids, ids)
    calls, blockwise = [], loss.multi_caption_loss
    monkeypatch.setattr(loss, "multi_caption_loss", lambda *a, **k: (calls.append(1), blockwise(*a, **k))[1])
    monkeypatch.setattr(loss, "_LARGEST_LOGITS", 40 * 40)
    assert torch.equal(contrastive_loss(image, text, torch.tensor(9.0), ids, ids), whole)
    assert not calls
    monkeypatch.setattr(loss, "_LARGEST_LOGITS", 40 * 7)
    found = contrastive_loss(image, text, torch.tensor(9.0), ids, ids)
    assert calls
    assert found.item() == pytest.approx(whole.item(), rel=1e-6)


def test_blocks_keep_and_make_no_matrix_of_all_pairs():
    rows, largest = 256, 0
    kept: dict[int, int] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            tensors = [each for each in (found if isinstance(found, tuple) else (found,)) if torch.is_tensor(each)]
            largest = max([largest, *(each.untyped_storage().nbytes() // each.itemsize for each in tensors)])
            return found

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    image, text = (each.requires_grad_() for each in embeddings(rows))
    ids = torch.arange(rows)
    with Watch(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = multi_caption_loss(image, text, torch.tensor(9.0), ids, ids, ids, block=8)
        assert sum(kept.values()) < rows * rows / 4
        found.backward()
    assert largest == 8 * rows


def test_a_batch_without_negatives_has_no_loss_and_no_gradient():
    image, text, scale = uneven()
    same = torch.zeros(5, dtype=torch.long)
    loss = multi_caption_loss(image, text, scale, same, CAPTIONS, OWNERS)
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in (image, text, scale))


def test_no_gradient_of_another_caption_of_the_same_picture_reaches_a_picture():
    """Its captions are each right, not each other's competitors: only own captions pull, only others' push."""
    image, text, scale = uneven()
    scores = (image.detach() @ text.detach().T).requires_grad_()
    # The loss depends on the embeddings through the scores alone: with one-hot pictures they are the captions.
    one_hot = torch.eye(5)
    captions = scores.T  # [c, 5]
    loss = multi_caption_loss(one_hot, captions, scale.detach(), PICTURES, CAPTIONS, OWNERS)
    [gradient] = torch.autograd.grad(loss, scores)
    own = torch.arange(5)[:, None] == OWNERS[None, :]
    words = torch.zeros(5, 9, dtype=torch.bool)
    for picture in range(5):
        words[picture] = torch.isin(CAPTIONS, CAPTIONS[own[picture]])
    right = own | words | (PICTURES[:, None] == PICTURES[OWNERS][None, :])
    assert (gradient[own] < 0).all()
    assert (gradient[right & ~own] == 0).all()
    assert (gradient[~right] > 0).all()


@pytest.mark.parametrize("block", [None, 1, 4])
def test_hard_negatives_count_in_proportion_to_a_power_of_their_similarity(block):
    image, text = embeddings()
    ids, hardness, scale = torch.arange(6), 0.3, 7.0
    found = multi_caption_loss(image, text, torch.tensor(scale), ids, ids, ids, hardness=hardness, block=block)
    logits = (scale * image.double() @ text.double().T).tolist()
    total = 0.0
    for i in range(6):
        for row in (logits[i], [logits[j][i] for j in range(6)]):
            negatives = [value for j, value in enumerate(row) if j != i]
            weights = [math.exp(hardness * value) for value in negatives]
            average = sum(weights) / len(weights)
            weighted = sum(weight / average * math.exp(value) for weight, value in zip(weights, negatives, strict=True))
            total += math.log(math.exp(row[i]) + weighted) - row[i]
    assert found.item() == pytest.approx(total / 12, rel=1e-5)
    assert contrastive_loss(image, text, torch.tensor(scale), ids, ids, hardness=hardness).item() == pytest.approx(
        found.item(), rel=1e-6
    )


def test_no_gradient_flows_through_the_weights_of_hard_negatives_and_rows_without_negatives_stay_finite():
    image, text = embeddings(3)
    text.requires_grad_()
    pictures = torch.tensor([0, 0, 0])
    loss = contrastive_loss(image, text, torch.tensor(7.0), pictures, torch.arange(3), hardness=0.5)
    loss.backward()
    assert loss.item() == 0.0 and text.grad is not None and text.grad.isfinite().all()
