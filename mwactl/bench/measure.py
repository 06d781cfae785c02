"""What is counted and measured of a variant beside its time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mwactl.backbone.precision import Precision
from mwactl.bench.batch import Batch
from mwactl.bench.step import Stepper
from mwactl.train.saved import saved_bytes

_SAVED_PAIRS = 4
_MATMUL_SIZE = {"cuda": 8192, "cpu": 2048}
_MATMUL_RUNS = 5


def saved_bytes_per_pair(stepper: Stepper, batch: Batch, precision: Precision) -> float:
    """Bytes that autograd keeps for one pair more, from the forward pass to the backward pass.

    The difference between some pairs and the same pairs twice: what a step keeps whatever the batch's size (casts of
    the weights) cancels out.
    """
    some = batch.spread(min(_SAVED_PAIRS, len(batch.pixels)))
    more = _saved_bytes(stepper, some.twice(), precision) - _saved_bytes(stepper, some, precision)
    return more / (len(some.pixels) * some.captions_per_image)


def _saved_bytes(stepper: Stepper, batch: Batch, precision: Precision) -> int:
    """Bytes of the tensors saved in one forward pass; each storage once, the model's own tensors and the batch's not.

    A cast of a weight counts: it takes memory.
    """
    module = stepper.contestant.module
    own = (*module.parameters(), *module.buffers(), batch.pixels, batch.tokens)
    return saved_bytes(lambda: stepper.loss(batch, precision), own)


def counting_flops(action: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Run it, and count the operations of its matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        result = action()
    return result, counter.get_total_flops()


def matmul_rate(device: torch.device, precision: Precision) -> float:
    """The most operations a second that a large matrix product reaches here in this precision."""
    size = _MATMUL_SIZE[device.type]
    factor = torch.randn(size, size, device=device).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(_MATMUL_RUNS):
        _wait(device)
        began = time.perf_counter()
        factor @ factor
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
