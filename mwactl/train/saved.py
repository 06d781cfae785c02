"""How much autograd keeps of a forward pass for the backward pass: counted, so the same on every run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(compute: Callable[[], Tensor], own: Iterable[Tensor]) -> int:
    """Bytes of the tensors that autograd saves while something is computed; each storage once.

    Args:
        compute: A forward pass.
        own: What is there anyway and does not count, such as the model's parameters. A cast of one does count.
    """
    known = {tensor.untyped_storage()._cdata for tensor in own}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = (storage.nbytes(), tensor)  # holding it keeps the identity from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    del result
    return sum(size for size, _ in kept.values())
