"""The canary: after loading, an adapter must change what the model says (being left out silently is a known pain)."""

from __future__ import annotations

import torch
from torch import Tensor

from mwactl.adapter.adapted import AdaptedModel
from mwactl.backbone.contract import Modality
from mwactl.errors import VerificationError

_CAPTION = "a photo of two dogs playing in the snow"


def check_active(model: AdaptedModel) -> float:
    """Compare embeddings of one fixed picture and caption with and without the adapter.

    Returns:
        The largest absolute difference of a component; 0.0 where every up-projection is zero or there are no modules.

    Raises:
        VerificationError: The adapter holds values, but the embeddings do not change.
    """
    adapter = model.adapter
    if adapter is None:
        return 0.0
    device = model.backbone.logit_scale.device
    height, width = model.backbone.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, height, width, generator=generator).to(device)
    tokens = model.backbone.tokenize([_CAPTION]).to(device)
    with_adapter = _embed(model, pixels, tokens)
    sites = model.backbone.sites(model.method.mwa.modalities)
    for site in sites:
        site.detach()
    try:
        without = _embed(model, pixels, tokens)
    finally:
        adapter.attach_to(sites)
    largest = 0.0
    for modality, embedding in with_adapter.items():
        difference = (embedding - without[modality]).abs().max().item()
        if difference == 0.0 and not adapter.adds_nothing(modality):
            raise VerificationError(
                f"the adapter is loaded but does not change {modality} embeddings",
                why=f"its modules hold values, yet {model.backbone.spec.name} computes as if they were not there",
                fix="report this: a plugin's site does not call its modules",
            )
        largest = max(largest, difference)
    return largest


@torch.inference_mode()
def _embed(model: AdaptedModel, pixels: Tensor, tokens: Tensor) -> dict[Modality, Tensor]:
    was_training = model.training
    model.eval()
    embeddings: dict[Modality, Tensor] = {"image": model.encode_image(pixels), "text": model.encode_text(tokens)}
    model.train(was_training)
    return embeddings
