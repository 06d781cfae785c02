"""Adapter tensors as bytes: equal adapters have equal bytes, and damage is noticed."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mwactl.adapter.serialise import from_bytes, to_bytes
from mwactl.errors import ExitCode, VerificationError

FACTS = {"backbone": "tiny", "fingerprint": "sha256:00", "trained": {"lr": 0.001, "épochs": 3}}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 4, generator=generator) for name in ("b", "a.long.name", "c")} | {
        "scalar": torch.tensor(1.5),
        "half": torch.ones(5, dtype=torch.bfloat16),
    }


def header(data: bytes) -> dict[str, object]:
    document: dict[str, object] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return document


def test_tensors_and_facts_come_back() -> None:
    state, facts = from_bytes(to_bytes(tensors(), FACTS), where="here")
    assert facts == FACTS
    assert state.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)


def test_save_load_save_gives_the_same_bytes() -> None:
    data = to_bytes(tensors(), FACTS)
    assert to_bytes(*from_bytes(data, where="here")) == data


def test_the_order_of_tensors_and_facts_does_not_matter() -> None:
    state = tensors()
    backwards = {name: state[name] for name in reversed(state)}
    assert to_bytes(backwards, dict(reversed(FACTS.items()))) == to_bytes(state, FACTS)


def test_one_changed_bit_or_fact_changes_the_bytes() -> None:
    state = tensors()
    data = to_bytes(state, FACTS)
    assert to_bytes(state, FACTS | {"backbone": "other"}) != data
    state["b"].view(torch.int32)[0, 0] ^= 1
    assert to_bytes(state, FACTS) != data


def test_there_is_exactly_one_metadata_key() -> None:
    metadata = header(to_bytes(tensors(), FACTS))["__metadata__"]
    assert isinstance(metadata, dict)
    assert list(metadata) == ["mwactl"]
    assert json.loads(metadata["mwactl"]) == FACTS


@pytest.mark.parametrize("length", [0, 7, 8, 40, -1])
def test_a_cut_file_fails_verification(length: int) -> None:
    with pytest.raises(VerificationError) as raised:
        from_bytes(to_bytes(tensors(), FACTS)[:length], where="adapter.safetensors")
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert raised.value.where == "adapter.safetensors"


def test_a_damaged_header_fails_verification() -> None:
    data = bytearray(to_bytes(tensors(), FACTS))
    data[9] ^= 0xFF
    with pytest.raises(VerificationError):
        from_bytes(bytes(data), where="here")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"mwactl": "no JSON"}, {"mwactl": "[1]"}])
def test_a_safetensors_file_of_another_maker_fails_verification(metadata: dict[str, str] | None) -> None:
    with pytest.raises(VerificationError, match="not a complete safetensors file of this toolkit"):
        from_bytes(safetensors.torch.save(tensors(), metadata=metadata), where="here")
