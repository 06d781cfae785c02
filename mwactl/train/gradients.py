"""The gradient of one batch: the towers, the loss, and how much of the batch is in memory at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel
from mwactl.backbone.contract import unit_rows
from mwactl.backbone.precision import Precision, autocast
from mwactl.data.loader import PairBatch
from mwactl.train import checkpoint
from mwactl.train.distributed import ALONE, Processes
from mwactl.train.exchange import Exchange, WholeBatch
from mwactl.train.gradient_cache import cached_backward, seed_of
from mwactl.train.micro_batch import MicroBatch
from mwactl.train.objective import Objective


class BatchGradients:
    """Computes the loss of a batch and leaves its gradient in the parameters.

    Args:
        model: In training mode, on its device.
        objective: The loss.
        device: Where it is.
        precision: In which the towers compute; loss and gradients of the embeddings are fp32.
        scaler: Scales the loss, once a batch.
        micro_batch: How much of a batch is encoded at once.
        seed: Of what is drawn at random where a batch is encoded in parts, or by several processes.
        processes: Who shares the batch.
        asked_to_stop: Whether this process was; `stop` then says so in all.
        sharded: Whether the processes share the backbone's blocks too: then each calls the towers as often as every
            other, one without rows with an input that does not count.
    """

    def __init__(
        self,
        model: AdaptedModel,
        objective: Objective,
        *,
        device: torch.device,
        precision: Precision,
        scaler: torch.amp.GradScaler,
        micro_batch: MicroBatch,
        seed: int,
        processes: Processes = ALONE,
        asked_to_stop: Callable[[], bool] = lambda: False,
        sharded: bool = False,
    ) -> None:
        self._model = model
        self._objective = objective
        self._device = device
        self._precision = precision
        self._scaler = scaler
        self._micro_batch = micro_batch
        self._seed = seed
        self._processes = processes
        self._sharded = sharded
        self._exchange = (
            None if processes.alone else Exchange(processes, model.trainable() | objective.trainable(), sharded=sharded)
        )
        self._asked_to_stop = asked_to_stop
        self._captions = 0

    @property
    def stop(self) -> bool:
        """Whether to stop after this step: the same in every process."""
        return self._asked_to_stop() if self._exchange is None else self._exchange.stop

    @property
    def pairs(self) -> int:
        """Captions of the last batch, in all processes."""
        return self._captions if self._exchange is None else self._exchange.pairs

    def start_equal(self) -> None:
        """Give every process the first one's trained parameters."""
        if self._exchange is not None:
            self._exchange.start_equal()

    def of(self, batch: PairBatch, step: int) -> Tensor:
        """The loss, shape [], detached; the gradient is in the parameters, scaled.

        Raises:
            ResourceError: The GPU's memory is not enough; parameters and random state are as before.
        """
        state = checkpoint.random_state(self._device)
        seeds = (self._seed, step) if self._processes.alone else (self._seed, step, self._processes.rank)
        self._captions = len(batch.tokens)

        def compute(size: int | None) -> Tensor:
            # Afresh, whatever an attempt that ran out of memory has left.
            if self._processes.alone:
                checkpoint.restore_random_state(state, self._device)
            else:
                torch.manual_seed(seed_of(*seeds))  # every process its own draws, which no checkpoint need hold
            self._model.zero_grad(set_to_none=True)
            self._objective.zero_grad()
            share = self._exchange.largest_share if self._exchange is not None and self._sharded else None
            if size is None or size >= (len(batch.tokens) if share is None else share[1]):
                return self._at_once(batch)
            return cached_backward(
                self._images, self._texts, batch.pixels, batch.tokens,
                lambda image, text: self._loss(image, text, batch), self._backward,
                size=size, seeds=seeds, device=self._device, largest_share=share,
            )  # fmt: skip

        def attempt(size: int | None) -> Tensor:
            if self._exchange is None:
                return compute(size)
            return self._exchange.attempt(lambda: compute(size), batch, self._asked_to_stop)

        return self._micro_batch.fit(attempt)

    def _at_once(self, batch: PairBatch) -> Tensor:
        loss = self._loss(self._images(batch.pixels), self._texts(batch.tokens), batch)
        self._backward(loss)
        return loss.detach()

    def _images(self, pixels: Tensor) -> Tensor:
        """Pictures [m, 3, h, w] -> [m, e]."""
        if not len(pixels):
            if self._sharded:
                return self._images(torch.zeros(1, 3, *self._model.backbone.image_size))[:0]
            return self._no_rows()
        with autocast(self._device, self._precision):
            return self._model.encode_image(self._here(pixels)).float()

    def _texts(self, tokens: Tensor) -> Tensor:
        """Token ids [m, s] -> [m, e]."""
        if not len(tokens):
            if self._sharded:
                return self._texts(self._model.backbone.tokenize(["a"]))[:0]
            return self._no_rows()
        with autocast(self._device, self._precision):
            return self._model.encode_text(self._here(tokens)).float()

    def _no_rows(self) -> Tensor:
        """[0, e]: what a process encodes of a batch that has fewer pictures than there are processes."""
        return torch.zeros(0, self._model.backbone.embedding_width, device=self._device)

    def _loss(self, image: Tensor, text: Tensor, batch: PairBatch) -> Tensor:
        """[p, e], [c, e] -> []; the loss of the whole batch, of which this may be a part."""
        whole: PairBatch | WholeBatch = batch
        if self._exchange is not None:
            whole = self._exchange.gather(image, text, batch)
            image, text = whole.image, whole.text
        return self._objective(
            unit_rows(image),
            unit_rows(text),
            self._here(whole.picture_ids),
            self._here(whole.caption_ids),
            None if whole.owners is None else self._here(whole.owners),
            counts=self._processes.first,
        )

    def _backward(self, loss: Tensor) -> None:
        scaled = self._scaler.scale(loss)
        if scaled.requires_grad:  # not where this process has no rows
            torch.autograd.backward(scaled)

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)
