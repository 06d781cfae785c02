"""The training step of a variant: forward, backward, optimiser, as the training loop does it.

Shape notation: b pictures, k captions a picture, e the shared space.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mwactl.backbone.contract import unit_rows
from mwactl.backbone.precision import Precision, autocast
from mwactl.bench.batch import Batch
from mwactl.bench.contestant import Contestant
from mwactl.config.recipe import TrainConfig
from mwactl.train import contrastive_loss
from mwactl.train.optimiser import adamw


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step's parts."""

    forward: float
    backward: float
    optimiser: float

    @property
    def total(self) -> float:
        """Of the whole step."""
        return self.forward + self.backward + self.optimiser


class Stepper:
    """Steps of one variant on one batch.

    Args:
        contestant: On the device.
        device: Where it is.
    """

    def __init__(self, contestant: Contestant, device: torch.device) -> None:
        self.contestant = contestant
        self.device = device
        self.parameters = contestant.model.trainable()
        self._config = TrainConfig()
        self._optimiser: torch.optim.AdamW | None = None

    def loss(self, batch: Batch, precision: Precision) -> Tensor:
        """The training loss of a batch that is on the device: shape []."""
        model = self.contestant.model
        pictures, captions = batch.tokens.shape[:2]
        with autocast(self.device, precision):
            image = model.encode_image(batch.pixels)  # [b, 3, h, w] -> [b, e]
            text = model.encode_text(batch.tokens.flatten(0, 1))  # [b, k, s] -> [b·k, e]
        picture_ids = torch.arange(pictures, device=self.device)
        return contrastive_loss(
            unit_rows(image.float()),
            unit_rows(text.float()),
            self.contestant.logit_scale.exp().squeeze(),
            picture_ids,
            torch.arange(pictures * captions, device=self.device),
            picture_ids.repeat_interleave(captions) if captions > 1 else None,
        )

    def forward_backward(self, batch: Batch, precision: Precision) -> Tensor:
        """Loss and gradients; the gradients of before are gone."""
        self.forget()
        loss = self.loss(batch, precision)
        torch.autograd.backward(loss)
        return loss.detach()

    def forget(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, batch: Batch, precision: Precision) -> StepTime:
        """One whole step, timed."""
        clock = _Clock(self.device)
        self.forget()
        clock.mark()
        loss = self.loss(batch, precision)
        clock.mark()
        torch.autograd.backward(loss)
        clock.mark()
        if self._optimiser is None:
            self._optimiser = adamw(self.parameters, self._config)
        nn.utils.clip_grad_norm_(self.parameters.values(), self._config.clip_norm or float("inf"))
        self._optimiser.step()
        clock.mark()
        forward, backward, optimiser = clock.seconds()
        return StepTime(forward, backward, optimiser)


class _Clock:
    """Marks in time: events on a GPU, which never wait for each other, a monotonic clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def mark(self) -> None:
        """Now."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Between neighbouring marks."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            pairs = zip(self._events, self._events[1:], strict=False)
            return [before.elapsed_time(after) / 1000 for before, after in pairs]
        return [after - before for before, after in zip(self._times, self._times[1:], strict=False)]
