"""The digest of tensors: every bit counts, the container does not."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mwactl.backbone.fingerprint import tensors_digest

Tensors = dict[str, Tensor]


def example() -> Tensors:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5), "c": torch.zeros(4, dtype=torch.bfloat16)}


def test_the_digest_is_sha256_of_name_dtype_shape_and_little_endian_values() -> None:
    # Adapters remember this digest: it must never change between versions.
    by_hand = hashlib.sha256(b"x" + b'["a","torch.float32",[1,2]]' + struct.pack("<2f", 1.0, 2.5))
    by_hand.update(b'["b","torch.int64",[]]' + struct.pack("<q", 7))
    tensors = {"b": torch.tensor(7), "a": torch.tensor([[1.0, 2.5]])}
    assert tensors_digest(tensors, b"x") == f"sha256:{by_hand.hexdigest()}"


def test_order_strides_and_gradients_do_not_count() -> None:
    tensors = example()
    digest = tensors_digest(tensors)
    assert tensors_digest(dict(reversed(tensors.items()))) == digest
    assert tensors_digest(tensors | {"a": tensors["a"].T.contiguous().T}) == digest
    assert tensors_digest(tensors | {"a": tensors["a"].clone().requires_grad_()}) == digest


def one_bit(tensors: Tensors) -> None:
    tensors["a"].view(torch.int32)[1, 2] ^= 1


def sign_of_zero(tensors: Tensors) -> None:
    tensors["c"][0] = -0.0


def name(tensors: Tensors) -> None:
    tensors["d"] = tensors.pop("b")


def shape(tensors: Tensors) -> None:
    tensors["a"] = tensors["a"].reshape(3, 2)


def dtype(tensors: Tensors) -> None:
    tensors["c"] = tensors["c"].half()


def fewer(tensors: Tensors) -> None:
    del tensors["b"]


@pytest.mark.parametrize("change", [one_bit, sign_of_zero, name, shape, dtype, fewer])
def test_every_change_counts(change: Callable[[Tensors], None]) -> None:
    tensors = example()
    change(tensors)
    assert tensors_digest(tensors) != tensors_digest(example())


def test_the_preamble_counts() -> None:
    assert tensors_digest(example(), b"gelu") != tensors_digest(example(), b"quick_gelu")
