"""A model that embeds by its backbone, whatever was done to that."""

from __future__ import annotations

from torch import Tensor, nn

from mwactl.backbone.contract import Backbone


class BackboneModel(nn.Module):
    """The three ways of embedding, which are the backbone's: it computes with what is attached to it.

    Args:
        backbone: Registered as `backbone`.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pictures [b, 3, h, w] -> [b, e], not normalised."""
        return self.backbone.encode_image(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> [b, e], not normalised."""
        return self.backbone.encode_text(tokens)

    def encode_padded_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] with their padding -> [b, e], not normalised."""
        return self.backbone.encode_padded_text(tokens)
