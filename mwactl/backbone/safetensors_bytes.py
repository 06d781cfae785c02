"""Tensors as the bytes of a safetensors file, made while they are written: a state of any size takes no second memory.

The library's own writer takes the whole state at once, and does not say which error a full disk is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

DTYPE_NAMES = {
    torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNMENT_BYTES = 64
_CHUNK_BYTES = 1 << 20


class SafetensorsBytes:
    """A state dict in the safetensors format (header length, JSON header, bytes), the floating tensors in fp32.

    Equal inputs give equal bytes: there is no metadata, and the order is by size of the elements (which keeps every
    tensor aligned) and by name.

    Args:
        state: Tensors of dtypes that `DTYPE_NAMES` names, or floating ones.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        dtypes = {name: torch.float32 if tensor.is_floating_point() else tensor.dtype for name, tensor in state.items()}
        self._names = sorted(state, key=lambda name: (-dtypes[name].itemsize, name))
        header: dict[str, Any] = {}
        end = 0
        for name in self._names:
            start, end = end, end + state[name].numel() * dtypes[name].itemsize
            dtype, shape = DTYPE_NAMES[dtypes[name]], list(state[name].shape)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % _ALIGNMENT_BYTES)
        self._header = len(text).to_bytes(8, "little") + text
        self.size = len(self._header) + end

    def chunks(self) -> Iterator[bytes]:
        """The bytes from the first to the last, at most a megabyte at a time."""
        yield self._header
        for name in self._names:
            tensor = self._state[name].detach().cpu()
            values = tensor.float() if tensor.is_floating_point() else tensor
            data = values.contiguous().reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(data), _CHUNK_BYTES):
                yield bytes(data[start : start + _CHUNK_BYTES])
