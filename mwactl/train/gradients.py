"""The gradient of one batch: the towers, the loss, and how much of the batch is in memory at once."""

from __future__ import annotations

import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel
from mwactl.backbone.contract import unit_rows
from mwactl.backbone.precision import Precision, autocast
from mwactl.data.loader import PairBatch
from mwactl.train import checkpoint
from mwactl.train.gradient_cache import cached_backward
from mwactl.train.loss import contrastive_loss
from mwactl.train.micro_batch import MicroBatch


class BatchGradients:
    """Computes the loss of a batch and leaves its gradient in the parameters.

    Args:
        model: In training mode, on its device.
        device: Where it is.
        precision: In which the towers compute; loss and gradients of the embeddings are fp32.
        scaler: Scales the loss, once a batch.
        micro_batch: How much of a batch is encoded at once.
        seed: Of what is drawn at random where a batch is encoded in parts.
    """

    def __init__(
        self,
        model: AdaptedModel,
        *,
        device: torch.device,
        precision: Precision,
        scaler: torch.amp.GradScaler,
        micro_batch: MicroBatch,
        seed: int,
    ) -> None:
        self._model = model
        self._device = device
        self._precision = precision
        self._scaler = scaler
        self._micro_batch = micro_batch
        self._seed = seed

    def of(self, batch: PairBatch, step: int) -> Tensor:
        """The loss, shape [], detached; the gradient is in the parameters, scaled.

        Raises:
            ResourceError: The GPU's memory is not enough; parameters and random state are as before.
        """
        state = checkpoint.random_state(self._device)

        def attempt(size: int | None) -> Tensor:
            # Afresh, whatever an attempt that ran out of memory has left.
            checkpoint.restore_random_state(state, self._device)
            self._model.zero_grad(set_to_none=True)
            if size is None or size >= len(batch.tokens):
                return self._at_once(batch)
            return cached_backward(
                self._images, self._texts, batch.pixels, batch.tokens,
                lambda image, text: self._loss(image, text, batch), self._backward,
                size=size, seeds=(self._seed, step), device=self._device,
            )  # fmt: skip

        return self._micro_batch.fit(attempt)

    def _at_once(self, batch: PairBatch) -> Tensor:
        loss = self._loss(self._images(batch.pixels), self._texts(batch.tokens), batch)
        self._backward(loss)
        return loss.detach()

    def _images(self, pixels: Tensor) -> Tensor:
        """Pictures [m, 3, h, w] -> [m, e]."""
        with autocast(self._device, self._precision):
            return self._model.encode_image(self._here(pixels)).float()

    def _texts(self, tokens: Tensor) -> Tensor:
        """Token ids [m, s] -> [m, e]."""
        with autocast(self._device, self._precision):
            return self._model.encode_text(self._here(tokens)).float()

    def _loss(self, image: Tensor, text: Tensor, batch: PairBatch) -> Tensor:
        """[p, e], [c, e] -> []."""
        return contrastive_loss(
            unit_rows(image),
            unit_rows(text),
            self._model.backbone.logit_scale.exp().squeeze(),
            self._here(batch.picture_ids),
            self._here(batch.caption_ids),
            None if batch.owners is None else self._here(batch.owners),
        )

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(self._scaler.scale(loss))

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)
