from __future__ import annotations

import pytest
import torch
from torch import nn

from mwactl.config.recipe import TrainConfig
from mwactl.train.optimiser import adamw, optimiser_state, restore_optimiser

CONFIG = TrainConfig(lr=0.1, weight_decay=0.5)


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"down.weight": (3, 4), "down.bias": (3,), "norm.weight": (4,), "alpha": ()}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def step(optimiser: torch.optim.Optimizer, own: dict[str, nn.Parameter], value: float) -> None:
    for parameter in own.values():
        parameter.grad = torch.full_like(parameter, value)
    optimiser.step()


def test_matrices_decay_and_biases_norms_and_scalars_do_not():
    own = parameters()
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    step(adamw(own, CONFIG), own, 0.0)
    changed = {name for name in own if not torch.equal(own[name], before[name])}
    assert changed == {"down.weight"}
    assert torch.allclose(own["down.weight"], before["down.weight"] * (1 - CONFIG.lr * CONFIG.weight_decay))


def test_every_parameter_is_trained():
    own = parameters()
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    step(adamw(own, CONFIG), own, 1.0)
    assert all(not torch.equal(own[name], before[name]) for name in own)


def test_only_scalars_can_be_trained():
    own = {"alpha": nn.Parameter(torch.ones(()))}
    step(adamw(own, CONFIG), own, 1.0)
    assert own["alpha"].item() == pytest.approx(0.9)


def test_a_restored_optimiser_goes_on_as_the_first_would():
    own = parameters()
    optimiser = adamw(own, CONFIG)
    for value in (1.0, -2.0, 0.5):
        step(optimiser, own, value)
    state = {name: tensor.clone() for name, tensor in optimiser_state(optimiser, own).items()}
    twin = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in own.items()}
    other = adamw(twin, CONFIG)
    restore_optimiser(other, twin, state)
    again = optimiser_state(other, twin)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert sorted(state)[:3] == ["exp_avg.alpha", "exp_avg.down.bias", "exp_avg.down.weight"]
    for value in (3.0, -1.0):
        step(optimiser, own, value)
        step(other, twin, value)
    assert all(torch.equal(own[name], twin[name]) for name in own)


def test_a_fresh_optimiser_has_no_state_to_save_or_restore():
    own = parameters()
    optimiser = adamw(own, CONFIG)
    assert optimiser_state(optimiser, own) == {}
    restore_optimiser(optimiser, own, {})
    assert not optimiser.state
