"""What a run minimises: the recipe's loss, and what the loss itself learns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mwactl.backbone.contract import Backbone
from mwactl.config.recipe import TrainConfig
from mwactl.train.loss import contrastive_loss
from mwactl.train.sigmoid_loss import first_bias, sigmoid_loss


class Objective:
    """The loss of a batch of embeddings.

    The sigmoid loss has a bias: the backbone's own, or where it has none one that is learned here. It serves training
    alone, since no rank depends on it: it is kept in checkpoints, not in adapters.

    Args:
        config: Which loss.
        backbone: Whose temperature and bias it reads; where it computes, on its device.
    """

    def __init__(self, config: TrainConfig, backbone: Backbone) -> None:
        self._config = config
        self._scale = backbone.logit_scale
        self._own_bias = backbone.logit_bias
        self.bias: nn.Parameter | None = None
        if config.loss == "sigmoid" and self._own_bias is None:
            self.bias = nn.Parameter(
                torch.full_like(self._scale.detach().squeeze(), torch.nan)
            )  # until the first batch

    def trainable(self) -> dict[str, nn.Parameter]:
        """What the loss itself learns, by name."""
        return {} if self.bias is None else {"loss.bias": self.bias}

    def state(self) -> dict[str, Tensor]:
        """Its values, detached, on the CPU."""
        return {name: parameter.detach().cpu() for name, parameter in self.trainable().items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, parameter in self.trainable().items():
            parameter.copy_(state[name])

    def zero_grad(self) -> None:
        """Forget the gradient of what the loss learns."""
        if self.bias is not None:
            self.bias.grad = None

    def __call__(
        self,
        image: Tensor,
        text: Tensor,
        picture_ids: Tensor,
        caption_ids: Tensor,
        owners: Tensor | None = None,
        *,
        counts: bool = True,
    ) -> Tensor:
        """Unit rows [p, e] and [c, e] -> the loss, shape []; the ids as of `contrastive_loss`.

        Args:
            image: Pictures.
            text: Captions.
            picture_ids: [p].
            caption_ids: [c].
            owners: [c] or None.
            counts: Whether temperature and bias get their gradient here: in one of several processes alone.
        """
        scale = self._scale.exp().squeeze()
        scale = scale if counts else scale.detach()
        if self._config.loss == "contrastive":
            hardness = self._config.hard_negatives
            return contrastive_loss(image, text, scale, picture_ids, caption_ids, owners, hardness=hardness)
        bias = self._bias(image, text, scale, picture_ids, caption_ids, owners)
        return sigmoid_loss(image, text, scale, bias if counts else bias.detach(), picture_ids, caption_ids, owners)

    def _bias(self, *batch: Tensor | None) -> Tensor:
        if self.bias is None:
            assert self._own_bias is not None
            return self._own_bias.squeeze()
        if self.bias.isnan():
            with torch.no_grad():
                self.bias.copy_(first_bias(*batch))  # type: ignore[arg-type]
        return self.bias
