"""What training will need, counted on the meta device: no weights, no pictures, a few seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from mwactl.adapter import AdaptedModel


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, in fp32; half of the activations in bf16 or fp16 is a fair guess.

    Args:
        weights: The backbone and the adapter.
        gradients_and_optimiser: Gradients and AdamW's two moments of what is trained.
        activations_per_pair: What autograd keeps of one picture and one caption of full length.
    """

    weights: int
    gradients_and_optimiser: int
    activations_per_pair: int

    def total(self, batch_size: int) -> int:
        """Bytes for a batch."""
        return self.weights + self.gradients_and_optimiser + batch_size * self.activations_per_pair

    def as_dict(self) -> dict[str, int]:
        """The same as JSON values."""
        return asdict(self)


def estimate_memory(model: AdaptedModel) -> MemoryEstimate:
    """Count what a training step keeps. The model must be on the meta device.

    Captions count with their full context length: an upper bound.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.trainable().values())
    one, three = _saved_bytes(model, 1), _saved_bytes(model, 3)
    return MemoryEstimate(weights=weights, gradients_and_optimiser=3 * trained, activations_per_pair=(three - one) // 2)


def _saved_bytes(model: AdaptedModel, batch_size: int) -> int:
    """Bytes of the tensors that autograd saves in one forward pass; each storage once, parameters not at all."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), tensor)  # holding it keeps the identity from being used again
        return tensor

    height, width = model.backbone.image_size
    tokens = torch.zeros(batch_size, model.backbone.context_length, dtype=torch.int64, device="meta")
    pixels = torch.empty(batch_size, 3, height, width, device="meta")
    was_training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = (model.encode_image(pixels), model.encode_text(tokens))
    model.train(was_training)
    del outputs
    return sum(size for size, _ in kept.values())
