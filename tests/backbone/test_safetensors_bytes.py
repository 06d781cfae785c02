from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from mwactl.backbone.checkpoint import map_safetensors
from mwactl.backbone.safetensors_bytes import SafetensorsBytes

STATE = {
    "b": torch.arange(6, dtype=torch.int64).view(2, 3),
    "a": torch.randn(700, 600, generator=torch.Generator().manual_seed(0)),
    "mask": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "turned": torch.arange(6.0).view(2, 3).T,
}


def test_the_library_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"".join(SafetensorsBytes(STATE).chunks()))
    found = safetensors.torch.load_file(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in STATE.items())


def test_its_size_is_said_before_a_byte_is_made() -> None:
    source = SafetensorsBytes(STATE)
    assert source.size == sum(map(len, source.chunks()))
    assert max(map(len, source.chunks())) <= 1 << 20


def test_saved_loaded_and_saved_again_the_bytes_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    first = b"".join(SafetensorsBytes(STATE).chunks())
    path.write_bytes(first)
    assert b"".join(SafetensorsBytes(dict(reversed(map_safetensors(path).items()))).chunks()) == first
