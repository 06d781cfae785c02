"""The modules against the paper's equations, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from mwactl.adapter.modules import AlignmentEnhancer, AuthorsAlignmentEnhancer, Bottleneck, KnowledgeExtractor
from mwactl.config.presets import complete
from mwactl.config.recipe import MwaConfig

D, M, EPS = 10, 4, 1e-3
PAPER = complete(MwaConfig())
X = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(0)) + 0.5


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("kind", [KnowledgeExtractor, AlignmentEnhancer])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("activation", "function"), [("relu", lambda x: x.clamp(min=0)), ("gelu", gelu)])
@pytest.mark.parametrize("scale", [1.0, 0.3, "learned"])
def test_module_is_the_papers_equation(
    kind: type[Bottleneck],
    layer_norm: bool,
    bias: bool,
    activation: Literal["relu", "gelu"],
    function: Callable[[Tensor], Tensor],
    scale: float | str,
) -> None:
    config = complete(MwaConfig(layer_norm=layer_norm, bias=bias, activation=activation))
    module = kind(D, M, scale=scale, eps=EPS, config=config)
    randomise(module)
    own = dict(module.named_parameters())
    x = normalised(X, own["norm.weight"], own["norm.bias"], EPS) if layer_norm else X
    middle = function(x @ own["down.weight"].T + own.get("down.bias", torch.zeros(M)))
    branch = middle @ own["up.weight"].T + own.get("up.bias", torch.zeros(D))
    factor = own["scale"] if scale == "learned" else scale
    torch.testing.assert_close(module(X), factor * branch)


@pytest.mark.parametrize("scale", [1.0, 0.1, "learned"])
def test_fresh_module_adds_exactly_zero_though_its_down_projection_is_not(scale: float | str) -> None:
    module = KnowledgeExtractor(D, M, scale=scale, eps=EPS, config=PAPER)
    assert not module(X).any()
    assert module.adds_nothing()
    assert module.down.weight.abs().min() > 0


def test_down_projection_is_kaiming_uniform() -> None:
    module = KnowledgeExtractor(400, 50, scale=1.0, eps=EPS, config=PAPER)
    bound = 1 / math.sqrt(400)  # a = √5
    assert 0.98 * bound < module.down.weight.abs().max() <= bound
    assert not module.down.bias.any()


@pytest.mark.parametrize("changed", ["up.weight", "up.bias"])
def test_one_value_after_the_bottleneck_is_something(changed: str) -> None:
    module = KnowledgeExtractor(D, M, scale="learned", eps=EPS, config=PAPER)
    with torch.no_grad():
        module.get_parameter(changed).view(-1)[0] = 1e-6
    assert not module.adds_nothing()
    with torch.no_grad():
        module.get_parameter("scale").zero_()
    assert module.adds_nothing()
    assert not module(X).any()


def test_learned_scale_is_one_number_that_starts_at_one_and_gets_a_gradient() -> None:
    module = KnowledgeExtractor(D, M, scale="learned", eps=EPS, config=PAPER)
    scale = module.get_parameter("scale")
    assert scale.shape == ()
    assert scale.item() == 1.0
    nn.init.normal_(module.up.weight)
    module(X).sum().backward()
    assert scale.grad is not None
    assert scale.grad != 0


def test_learned_scale_computes_shapes_without_values() -> None:
    module = KnowledgeExtractor(D, M, scale="learned", eps=EPS, config=PAPER).to("meta")
    assert module(torch.empty(2, 3, D, device="meta")).shape == (2, 3, D)


def test_dropout_acts_on_the_middle_activations_while_training_only() -> None:
    module = KnowledgeExtractor(D, 1000, scale=1.0, eps=EPS, config=complete(MwaConfig(dropout=0.25)))
    randomise(module)
    seen: list[Tensor] = []
    module.up.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.eval()
    expected = module(X)
    torch.testing.assert_close(module(X), expected, rtol=0, atol=0)
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module(X)
    whole, dropped = seen[0], seen[-1]
    alive = whole != 0
    share = (dropped[alive] == 0).float().mean()
    assert 0.2 < share < 0.3
    kept = alive & (dropped != 0)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


def test_authors_enhancer_is_fc2_of_ln_of_gelu_of_fc1() -> None:
    module = AuthorsAlignmentEnhancer(D)
    randomise(module)
    own = dict(module.named_parameters())
    assert {name: tuple(value.shape) for name, value in own.items()} == {
        "fc1.weight": (4 * D, D), "fc1.bias": (4 * D,), "norm.weight": (4 * D,), "norm.bias": (4 * D,),
        "fc2.weight": (D, 4 * D), "fc2.bias": (D,),
    }  # fmt: skip
    hidden = normalised(gelu(X @ own["fc1.weight"].T + own["fc1.bias"]), own["norm.weight"], own["norm.bias"], 1e-5)
    torch.testing.assert_close(module(X), hidden @ own["fc2.weight"].T + own["fc2.bias"])


def test_authors_enhancer_is_small_but_not_zero_at_the_start() -> None:
    module = AuthorsAlignmentEnhancer(D)
    assert not module.adds_nothing()
    assert module(X).any()
    for weight in (module.fc1.weight, module.fc2.weight):
        assert 0 < weight.abs().max() <= 0.02
    nn.init.zeros_(module.fc2.weight)
    assert module.adds_nothing()
