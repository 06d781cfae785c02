"""The exponential moving average of what is trained: evaluated and kept in the place of the last step's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """`average ← d · average + (1 - d) · value` after every step.

    The decay d rises to the one asked for as `(1 + t) / (10 + t)` with the step t, so that the first values, far from
    what is being learnt, are soon forgotten.

    Args:
        parameters: What is trained; the average starts at their values.
        decay: The largest d.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._average = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the step of this number, counted from 0."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._average.values()), list(self._parameters.values()), weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the parameters; the trained values come back at the end."""
        values = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._put(self._average)
        try:
            yield
        finally:
            self._put(values)

    def state(self) -> dict[str, Tensor]:
        """The averages, on the CPU."""
        return {name: average.cpu().contiguous() for name, average in self._average.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, average in self._average.items():
            average.copy_(state[name])

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
