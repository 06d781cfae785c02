"""Adapter tensors as bytes: safetensors with exactly one metadata key, so equal adapters have equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from mwactl.errors import VerificationError
from mwactl.files import canonical_json

_KEY = "mwactl"


def to_bytes(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Tensors and a JSON document as one safetensors file. More than one metadata key would vary from save to save."""
    ordered = {name: state[name] for name in sorted(state)}
    return safetensors.torch.save(ordered, metadata={_KEY: canonical_json(dict(facts)).decode()})


def from_bytes(data: bytes, *, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `to_bytes`.

    Raises:
        VerificationError: Not a safetensors file of this toolkit.
    """
    try:
        state = safetensors.torch.load(data)
        header_length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_length]).get("__metadata__", {})
        facts = json.loads(metadata[_KEY])
        if not isinstance(facts, dict):
            raise ValueError(f"its facts are a {type(facts).__name__}")
        return state, facts
    except (SafetensorError, ValueError, KeyError) as error:
        raise VerificationError(
            "not a complete safetensors file of this toolkit", where=where, why=str(error)
        ) from error
