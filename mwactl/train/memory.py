"""What training will need, counted on the meta device: no weights, no pictures, a few seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mwactl.adapter import AdaptedModel

#: The paper's batches (1024 for base, 512 for large models) and two that a smaller GPU may hold.
BATCH_SIZES = (64, 256, 512, 1024)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, in fp32; half of the activations in bf16 or fp16 is a fair guess.

    Args:
        weights: The backbone.
        adapter: The modules that the method adds.
        gradients_and_optimiser: Gradients and AdamW's two moments of what is trained.
        activations_per_pair: What autograd keeps of one picture and one caption of full length.
        activations_per_batch: What it keeps whatever the batch's size: masks and biases of attention.
    """

    weights: int
    adapter: int
    gradients_and_optimiser: int
    activations_per_pair: int
    activations_per_batch: int

    def total(self, batch_size: int) -> int:
        """Bytes for a batch."""
        activations = self.activations_per_batch + batch_size * self.activations_per_pair
        return self.weights + self.adapter + self.gradients_and_optimiser + activations

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values, with the total of some batch sizes."""
        return {**asdict(self), "total_at_batch": {str(size): self.total(size) for size in BATCH_SIZES}}


def estimate_memory(model: AdaptedModel) -> MemoryEstimate:
    """Count what a training step keeps. The model must be on the meta device.

    Captions count with their full context length: an upper bound.
    """
    two, four = _saved_bytes(model, 2), _saved_bytes(model, 4)
    per_pair = (four - two) // 2
    return MemoryEstimate(
        weights=_bytes(model.backbone.state_dict().values()),
        adapter=0 if model.adapter is None else _bytes(model.adapter.parameters()),
        gradients_and_optimiser=3 * _bytes(model.trainable().values()),
        activations_per_pair=per_pair,
        activations_per_batch=two - 2 * per_pair,
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


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
    with _FusedAttention(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = (model.encode_image(pixels), model.encode_text(tokens))
    model.train(was_training)
    del outputs
    return sum(size for size, _ in kept.values())


class _FusedAttention(TorchFunctionMode):
    """Attention by a fused kernel, as every real device has one.

    On the meta device torch takes attention apart, which would count scores [b, h, n, n] that no fused kernel keeps.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Put the fused kernel in the place of `scaled_dot_product_attention`."""
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        return self._fused(*args, **(kwargs or {}))

    @staticmethod
    def _fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        # Dropout draws its numbers again in the backward pass, and takes no memory.
        mixed, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale
        )
        fused: Tensor = mixed
        return fused
