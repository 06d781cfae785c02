from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel, inject
from mwactl.adapter.average import average, scaled
from mwactl.config.recipe import MethodConfig, MwaConfig

from .conftest import TinyBackbone

Tiny = Callable[..., TinyBackbone]
Train = Callable[[AdaptedModel], None]


def states(model: AdaptedModel, train_a_little: Train) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An adapter's tensors before and after some training; the model is as before."""
    before = {name: tensor.clone() for name, tensor in model.adapter_state().items()}
    train_a_little(model)
    after = {name: tensor.clone() for name, tensor in model.adapter_state().items()}
    model.load_adapter_state(before)
    return before, after


def test_an_average_is_the_weighted_sum_tensor_by_tensor() -> None:
    one, other = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 10.0])}
    assert torch.equal(average([one, other], [0.5, 0.5])["a"], torch.tensor([2.0, 6.0]))
    assert torch.equal(average([one, other], [0.25, 0.5])["a"], torch.tensor([1.75, 5.5]))


def test_it_is_summed_in_double_precision_and_rounded_once() -> None:
    large, small = {"a": torch.tensor([2.0**25])}, {"a": torch.tensor([1.0])}
    summed = average([large, small, small, large], [1, 1, 1, -1])["a"]
    assert summed.dtype == torch.float32
    assert summed.item() == 2.0


def test_the_average_of_equal_adapters_is_that_adapter() -> None:
    state = {"a": torch.randn(50, generator=torch.Generator().manual_seed(0))}
    assert torch.equal(average([state, state], [0.5, 0.5])["a"], state["a"])


@pytest.mark.parametrize(
    ("others", "weights"),
    [
        ([{"a": torch.ones(2)}], [1.0]),
        ([{"a": torch.ones(3)}], [0.5, 0.5]),
        ([{"b": torch.ones(2)}], [0.5, 0.5]),
        ([{"a": torch.ones(2).double()}], [0.5, 0.5]),
        ([{"a": torch.ones(2)}], [0.5, float("nan")]),
    ],
)
def test_what_cannot_be_summed_is_refused(others: list[dict[str, Tensor]], weights: list[float]) -> None:
    with pytest.raises(ValueError):
        average([{"a": torch.ones(2)}, *others], weights)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": "learned", "beta": "learned"},
        {"alpha": 0.3, "bias": False},
        {"preset": "authors-code", "alpha": "learned"},
    ],
    ids=["plain", "learned scales", "fixed scale", "authors' code"],
)
def test_every_branch_of_a_scaled_adapter_adds_that_many_times_as_much(
    tiny: Tiny, train_a_little: Train, options: dict[str, Any]
) -> None:
    model = inject(tiny(), MethodConfig(mwa=MwaConfig(knowledge_extractor=3, alignment_enhancer=4, **options)))
    _, trained = states(model, train_a_little)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    assert model.adapter is not None
    branches = [branch for modality in ("image", "text") for branch in model.adapter.branches(modality)]
    with torch.inference_mode():
        result = scaled(model, trained, 0.7)
        model.load_adapter_state(trained)
        whole = [branch(x) for branch in branches]
        model.load_adapter_state(result)
        for branch, expected in zip(branches, whole, strict=True):
            assert torch.allclose(branch(x), 0.7 * expected, atol=1e-6)
            assert not torch.allclose(branch(x), expected, atol=1e-3)


def test_tensors_of_the_backbone_move_along_the_line_from_where_they_were(tiny: Tiny, train_a_little: Train) -> None:
    model = inject(tiny(bias=True), MethodConfig(train_head=True, train_logit_scale=True))
    before, trained = states(model, train_a_little)
    own = [name for name in trained if name.startswith("backbone.")]
    assert {"backbone.scale", "backbone.offset", "backbone.image_head.weight"} <= set(own)
    half = scaled(model, trained, 0.5)
    assert all(torch.allclose(half[name], (before[name] + trained[name]) / 2) for name in own)


@pytest.mark.parametrize("method", ["mwa", "head", "full"])
def test_strength_one_is_the_adapter_and_strength_zero_the_bare_backbone(
    tiny: Tiny, train_a_little: Train, pixels: Tensor, tokens: Tensor, method: Any
) -> None:
    bare = tiny()
    model = inject(tiny(), MethodConfig(name=method, train_head=True, train_logit_scale=True))
    _, trained = states(model, train_a_little)
    assert all(torch.equal(value, trained[name]) for name, value in scaled(model, trained, 1.0).items())
    nothing = scaled(model, trained, 0.0)
    model.load_adapter_state(nothing)
    with torch.inference_mode():
        assert torch.equal(model.encode_image(pixels), bare.encode_image(pixels))
        assert torch.equal(model.encode_text(tokens), bare.encode_text(tokens))
    assert torch.equal(model.backbone.logit_scale, bare.logit_scale)
