"""What training will need, counted on the meta device: no weights, no pictures, a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mwactl.adapter import AdaptedModel
from mwactl.train.saved import saved_bytes

#: The paper's batches (1024 for base, 512 for large models) and two that a smaller GPU may hold.
BATCH_SIZES = (64, 256, 512, 1024)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, in fp32; half of the activations in bf16 or fp16 is a fair guess.

    Args:
        weights: The backbone.
        adapter: The modules that the method adds.
        gradients_and_optimiser: Gradients and AdamW's two moments of what is trained, and its moving average.
        activations_per_picture: What autograd keeps of one picture.
        activations_per_caption: What it keeps of one caption of full length.
        activations_per_batch: What it keeps whatever the batch's size: masks and biases of attention.
        embedding: One embedding and its gradient, as gradient caching keeps them of the whole batch.
    """

    weights: int
    adapter: int
    gradients_and_optimiser: int
    activations_per_picture: int
    activations_per_caption: int
    activations_per_batch: int
    embedding: int

    @property
    def activations_per_pair(self) -> int:
        """What autograd keeps of one picture and one caption."""
        return self.activations_per_picture + self.activations_per_caption

    def total(self, batch_size: int, *, micro_batch: int | None = None, captions_per_image: int = 1) -> int:
        """Bytes for a batch.

        Args:
            batch_size: Captions.
            micro_batch: Pictures, or captions, that are encoded at once; None: all.
            captions_per_image: Captions to a picture.
        """
        pictures = batch_size // captions_per_image
        fixed = self.weights + self.adapter + self.gradients_and_optimiser + self.activations_per_batch
        if micro_batch is None or micro_batch >= batch_size:
            return fixed + pictures * self.activations_per_picture + batch_size * self.activations_per_caption
        # One tower's chunk at a time; of everything else there are the embeddings alone.
        chunk = max(
            min(micro_batch, pictures) * self.activations_per_picture, micro_batch * self.activations_per_caption
        )
        return fixed + chunk + (pictures + batch_size) * self.embedding

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values, with the total of some batch sizes."""
        return {
            **asdict(self),
            "activations_per_pair": self.activations_per_pair,
            "total_at_batch": {str(size): self.total(size) for size in BATCH_SIZES},
        }


def estimate_memory(model: AdaptedModel, *, averaged: bool = False) -> MemoryEstimate:
    """Count what a training step keeps. The model must be on the meta device.

    Captions count with their full context length: an upper bound.

    Args:
        model: What is trained.
        averaged: Whether a moving average is kept of it (`train.ema`).
    """
    backbone = model.backbone

    def pictures(count: int) -> Tensor:
        return model.encode_image(torch.empty(count, 3, *backbone.image_size, device="meta"))

    def captions(count: int) -> Tensor:
        return model.encode_text(torch.zeros(count, backbone.context_length, dtype=torch.int64, device="meta"))

    per_picture, of_pictures = _slope(model, pictures)
    per_caption, of_captions = _slope(model, captions)
    return MemoryEstimate(
        weights=_bytes(backbone.state_dict().values()),
        adapter=0 if model.adapter is None else _bytes(p for p in model.adapter.parameters() if p.requires_grad),
        gradients_and_optimiser=(4 if averaged else 3) * _bytes(model.trainable().values()),
        activations_per_picture=per_picture,
        activations_per_caption=per_caption,
        activations_per_batch=of_pictures + of_captions,
        embedding=2 * 4 * backbone.embedding_width,
    )


def _slope(model: AdaptedModel, encode: Callable[[int], Tensor]) -> tuple[int, int]:
    """Bytes kept for one more input, and whatever their number."""
    two, four = _saved_bytes(model, lambda: encode(2)), _saved_bytes(model, lambda: encode(4))
    slope = (four - two) // 2
    return slope, two - 2 * slope


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _saved_bytes(model: AdaptedModel, encode: Callable[[], Tensor]) -> int:
    """Bytes that training saves in one forward pass, parameters not among them."""
    was_training = model.training
    model.train()
    with _FusedAttention():
        size = saved_bytes(encode, model.parameters())
    model.train(was_training)
    return size


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
