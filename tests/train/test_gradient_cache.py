from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.contract import unit_rows
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.train import contrastive_loss
from mwactl.train.gradient_cache import ChunkedTower, cached_backward, longest_first

CPU = torch.device("cpu")
SEEDS = (3, 17)
OWNERS = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6])
Gradients = dict[str, Tensor]


@dataclass
class Case:
    """A model, a batch of 7 pictures with 11 captions of different length, and what one step does with them."""

    model: AdaptedModel
    pixels: Tensor
    tokens: Tensor
    encoded: list[int] = field(default_factory=list)

    def images(self, pixels: Tensor) -> Tensor:
        self.encoded.append(len(pixels))
        return self.model.encode_image(pixels).float()

    def texts(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens).float()

    def loss(self, image: Tensor, text: Tensor) -> Tensor:
        scale = self.model.backbone.logit_scale.exp()
        return contrastive_loss(unit_rows(image), unit_rows(text), scale, torch.arange(7), torch.arange(11), OWNERS)

    def gradients(self) -> Gradients:
        found = {name: p.grad for name, p in self.model.trainable().items() if p.grad is not None}
        self.model.zero_grad(set_to_none=True)
        return found

    def cached(self, size: int, **options) -> tuple[Tensor, Gradients]:
        encoders = {"encode_image": self.images, "encode_text": self.texts} | options
        loss = cached_backward(
            pixels=self.pixels, tokens=self.tokens, loss_of=self.loss, backward=torch.autograd.backward, size=size,
            seeds=SEEDS, device=CPU, **encoders,
        )  # fmt: skip
        return loss, self.gradients()

    def at_once(self) -> tuple[Tensor, Gradients]:
        loss = self.loss(self.images(self.pixels), self.texts(self.tokens))
        loss.backward()
        return loss.detach(), self.gradients()

    def in_chunks_with_graph(self, size: int) -> tuple[Tensor, Gradients]:
        """What caching must equal: the same chunks with the same draws, all of them kept until one backward pass."""
        order = longest_first(self.tokens)
        image = ChunkedTower(self.images, self.pixels, size=size, seeds=(*SEEDS, 0))
        text = ChunkedTower(self.texts, self.tokens[order], size=size, seeds=(*SEEDS, 1))
        loss = self.loss(torch.cat(list(image.chunks())), torch.cat(list(text.chunks()))[order.argsort()])
        loss.backward()
        return loss.detach(), self.gradients()


@pytest.fixture
def case(tiny_clip: Path) -> Callable[..., Case]:
    """A case for a method; its new modules already act."""

    def make(dropout: float = 0.0, **options) -> Case:
        mwa = MwaConfig(knowledge_extractor=4, alignment_enhancer=8, dropout=dropout, **options)
        plugin, spec = find_spec(f"clip:local-dir:{tiny_clip}")
        method = MethodConfig(mwa=mwa, train_logit_scale=True)
        model = inject(plugin.build(spec, WeightsRequest()), method, seed=1).train()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.trainable().values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        captions = [" ".join(["dog"] * (1 + (5 * number) % 11)) for number in range(11)]
        return Case(model, torch.randn(7, 3, 32, 32, generator=generator), model.backbone.tokenize(captions))

    return make


def assert_equal(one: tuple[Tensor, Gradients], other: tuple[Tensor, Gradients]) -> None:
    (loss, found), (true_loss, true) = one, other
    assert loss.item() == pytest.approx(true_loss.item(), rel=1e-6)
    assert found.keys() == true.keys()
    assert "backbone.model.logit_scale" in found
    for name, gradient in true.items():
        assert gradient.abs().max() > 0, name
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 7, 10])
def test_the_gradient_is_that_of_the_whole_batch(case, size: int):
    """Also of an odd last chunk, and where the pictures are one chunk and the captions several."""
    own = case()
    assert_equal(own.cached(size), own.at_once())


@pytest.mark.parametrize("size", [1, 3, 7])
def test_with_dropout_pass_two_draws_what_pass_one_drew(case, size: int):
    own = case(dropout=0.5)
    torch.manual_seed(5)
    assert_equal(own.cached(size), own.in_chunks_with_graph(size))


def test_dropout_matters_to_this_comparison(case):
    own = case(dropout=0.5)
    cached, whole = own.cached(3)[1], own.at_once()[1]
    assert any((cached[name] - whole[name]).norm() > 0.1 * whole[name].norm() for name in whole)


def test_draws_follow_from_the_seeds_alone(case):
    own = case(dropout=0.5)
    torch.manual_seed(1)
    one = own.cached(4)
    torch.manual_seed(2)
    torch.rand(7)
    loss, gradients = own.cached(4)
    assert torch.equal(loss, one[0])
    assert all(torch.equal(gradients[name], one[1][name]) for name in gradients)


def test_two_chunks_do_not_draw_the_same(case):
    tower = ChunkedTower(lambda rows: torch.rand(len(rows), 3), torch.zeros(6, 1), size=2, seeds=SEEDS)
    first, second, third = tower.chunks()
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert all(torch.equal(*pair) for pair in zip((first, second, third), tower.chunks(), strict=True))


def test_the_global_generator_is_left_as_it_was(case):
    own = case(dropout=0.5)
    state = torch.get_rng_state()
    own.cached(3)
    assert torch.equal(torch.get_rng_state(), state)

    def broken(tokens: Tensor) -> Tensor:
        torch.rand(1)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        own.cached(3, encode_text=broken)
    assert torch.equal(torch.get_rng_state(), state)


def test_in_half_precision_the_gradient_is_as_exact(case):
    """Pass 2 computes to the last bit what pass 1 did: the loss's gradient is taken where it is continued."""
    own = case()

    def images(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return own.model.encode_image(pixels).float()

    def texts(tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return own.model.encode_text(tokens).float()

    loss, gradients = own.cached(3, encode_image=images, encode_text=texts)
    own.images, own.texts = images, texts  # type: ignore[method-assign]
    assert_equal((loss, gradients), own.in_chunks_with_graph(3))


def test_a_tower_with_nothing_to_train_is_encoded_once(case):
    own = case(modalities=("text",))
    own.cached(3)
    assert own.encoded == [3, 3, 1]
    own = case()
    own.cached(3)
    assert own.encoded == [3, 3, 1] * 2


def test_the_longest_captions_come_first_whatever_the_padding_is():
    tokens = torch.tensor([[5, 2, 1, 1, 1], [5, 9, 2, 1, 1], [5, 7, 8, 9, 2], [5, 2, 1, 1, 1], [5, 9, 2, 1, 1]])
    assert longest_first(tokens).tolist() == [2, 1, 4, 0, 3]
    assert longest_first(torch.where(tokens == 1, 0, tokens)).tolist() == [2, 1, 4, 0, 3]


def test_captions_of_like_length_share_a_chunk(case):
    own, lengths = case(), []

    def texts(tokens: Tensor) -> Tensor:
        lengths.append([int(length) for length in (tokens != 0).sum(dim=1)])
        return own.model.encode_text(tokens)

    own.cached(4, encode_text=texts)
    assert lengths[:3] == [[13, 12, 11, 10], [9, 8, 7, 6], [5, 4, 3]]


# -- memory, counted --------------------------------------------------------------------------------------------------


class Kept:
    """The bytes that autograd keeps at a time, each storage once."""

    def __init__(self, model: AdaptedModel) -> None:
        self._own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._now: dict[int, tuple[int, int]] = {}
        self.peak = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key not in self._own:
            self._now[key] = (size, self._now.get(key, (0, 0))[1] + 1)
            self.peak = max(self.peak, sum(size for size, _ in self._now.values()))
            kept = tensor.detach().view_as(tensor)
            weakref.finalize(kept, self._free, key)
            return kept
        return tensor

    def _free(self, key: int) -> None:
        size, holders = self._now.pop(key)
        if holders > 1:
            self._now[key] = (size, holders - 1)


def test_a_quarter_of_the_batch_at_once_keeps_about_a_quarter_of_the_bytes(case):
    own = case()
    own.pixels, own.tokens = own.pixels.repeat(8, 1, 1, 1), own.tokens[:7].repeat(8, 1)
    own.loss = lambda image, text: contrastive_loss(  # type: ignore[method-assign]
        unit_rows(image), unit_rows(text), own.model.backbone.logit_scale.exp(), torch.arange(56), torch.arange(56)
    )

    def peak(step: Callable[[], object]) -> int:
        kept = Kept(own.model)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            step()
        return kept.peak

    whole, quarter, eighth = peak(own.at_once), peak(lambda: own.cached(14)), peak(lambda: own.cached(7))
    assert quarter < 0.27 * whole  # less where only one tower's chunk is kept at a time
    assert eighth < 0.6 * quarter
