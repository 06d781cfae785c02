"""The canary: after loading, an adapter must change what the model says (being left out silently is a known pain)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mwactl.adapter.adapted import AdaptedModel
from mwactl.adapter.added import Adapter
from mwactl.backbone.contract import Modality
from mwactl.errors import VerificationError

_CAPTION = "a photo of two dogs playing in the snow"


def check_active(model: AdaptedModel) -> float:
    """Compare embeddings of one fixed picture and caption with and without the adapter.

    Returns:
        The largest absolute difference of a component; 0.0 where every up-projection is zero or there are no modules.

    Raises:
        VerificationError: The adapter holds values, but modules of it are not called; or the embeddings are NaN or
            infinite.
    """
    adapter = model.adapter
    if adapter is None:
        return 0.0
    device = model.backbone.logit_scale.device
    height, width = model.backbone.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, height, width, generator=generator).to(device)
    tokens = model.backbone.tokenize([_CAPTION]).to(device)
    with _counting_calls(adapter) as called:
        with_adapter = _embed(model, pixels, tokens)
    adapter.detach_from(model.backbone)
    try:
        without = _embed(model, pixels, tokens)
    finally:
        adapter.attach_to(model.backbone)
    largest = 0.0
    for modality, embedding in with_adapter.items():
        if not embedding.isfinite().all():
            raise VerificationError(
                f"the {modality} embeddings of {model.backbone.spec.name} with this adapter are not finite",
                why="the adapter or the backbone's weights hold NaN or infinite values, or the sums overflow",
                fix="use an earlier version of the adapter, or train again with a lower train.lr",
            )
        difference = (embedding - without[modality]).abs().max().item()
        # Not the difference decides: a tiny adapter may leave one picture as it was (its few ReLUs all closed).
        branches = list(adapter.branches(modality))
        ignored = sum(id(branch) not in called for branch in branches)
        if ignored and not adapter.adds_nothing(modality):
            raise VerificationError(
                f"the adapter is loaded but does not change {modality} embeddings"
                if ignored == len(branches)
                else f"the adapter is loaded but parts of it do not change {modality} embeddings",
                why=f"{ignored} of its {len(branches)} modules are not called by {model.backbone.spec.name}",
                fix="report this: a plugin's site does not call its modules",
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def _counting_calls(adapter: Adapter) -> Iterator[set[int]]:
    """The ids of the adapter's branches that are called inside the block."""
    called: set[int] = set()
    branches = [*adapter.branches("image"), *adapter.branches("text")]
    handles = [branch.register_forward_hook(lambda module, *_: called.add(id(module))) for branch in branches]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def _embed(model: AdaptedModel, pixels: Tensor, tokens: Tensor) -> dict[Modality, Tensor]:
    was_training = model.training
    model.eval()
    embeddings: dict[Modality, Tensor] = {"image": model.encode_image(pixels), "text": model.encode_text(tokens)}
    model.train(was_training)
    return embeddings
