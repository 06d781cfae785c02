from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mwactl.config.recipe import TrainConfig
from mwactl.train.gradients import BatchGradients
from mwactl.train.micro_batch import MicroBatch
from mwactl.train.objective import Objective

ROWS = [(0, number, number) for number in range(8)]


@pytest.fixture
def gradients(load_toy) -> Callable[..., dict[str, Tensor]]:
    """The gradients of a batch of 8 pairs."""

    def of(model: Any, micro_batch: Any, *, step: int = 0) -> dict[str, Tensor]:
        device, scaler = torch.device("cpu"), torch.amp.GradScaler("cpu", enabled=False)
        [batch] = load_toy(iter([ROWS]))
        BatchGradients(
            model.train(), Objective(TrainConfig(), model.backbone), device=device, precision="fp32", scaler=scaler,
            seed=0, micro_batch=MicroBatch(micro_batch, 8),
        ).of(batch, step)  # fmt: skip
        return {name: parameter.grad.clone() for name, parameter in model.trainable().items()}

    return of


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_every_step_draws_anew(gradients, toy):
    assert equal(gradients(toy(), 3, step=5), gradients(toy(), 3, step=5))
    assert not equal(gradients(toy(), 3, step=5), gradients(toy(), 3, step=6))


@pytest.mark.parametrize("call", range(1, 10))
def test_an_attempt_that_fails_anywhere_leaves_no_gradient_and_no_draw_behind(gradients, toy, call: int):
    """In the whole batch's towers (calls 1 and 2), and then in either pass over two chunks of each tower (3 to 10)."""

    class Tight(toy):  # type: ignore[misc, valid-type]
        calls = 0

        def _within_memory(self, rows: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == call or (call > 2 and self.calls == 1):
                torch.rand(3)
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return rows

    torch.manual_seed(1)
    state = torch.get_rng_state()
    found = gradients(Tight(), "auto")
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(found, gradients(toy(), 4 if call <= 2 else 2))


def test_gradients_of_the_batch_before_are_forgotten(gradients, toy):
    model = toy()
    first = gradients(model, 3)
    assert equal(gradients(model, 3), first)
