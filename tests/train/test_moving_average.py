from __future__ import annotations

import pytest
import torch

from mwactl.train.moving_average import MovingAverage


def test_it_follows_the_values_with_a_decay_that_rises_to_the_one_asked_for():
    value = torch.tensor([0.0])
    average = MovingAverage({"w": value}, decay=0.5)
    expected = 0.0
    for step in range(40):
        value += 1.0
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value.item()
        average.update(step)
        assert average.state()["w"].item() == pytest.approx(expected, rel=1e-5)


def test_inside_the_block_the_parameters_are_the_averages_and_afterwards_what_they_were():
    value = torch.nn.Parameter(torch.tensor([1.0]))
    average = MovingAverage({"w": value}, decay=0.9)
    with torch.no_grad():
        value.add_(4.0)
    with pytest.raises(RuntimeError), average.in_place():
        assert value.item() == 1.0
        raise RuntimeError("a validation that fails")
    assert value.item() == 5.0


def test_it_goes_on_from_its_state():
    value = torch.tensor([2.0])
    average, other = MovingAverage({"w": value}, 0.9), MovingAverage({"w": torch.tensor([0.0])}, 0.9)
    average.update(0)
    other.restore(average.state())
    assert torch.equal(other.state()["w"], average.state()["w"])
