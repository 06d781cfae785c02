from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mwactl.backbone.initial import normal_, truncated_normal_

_PROGRAM = """
import torch
from mwactl.backbone.fingerprint import tensors_digest
from mwactl.backbone.initial import normal_, truncated_normal_
from mwactl_beit3.positions import resize_positions
from mwactl_vlmo.positions import resize_bias_table, resize_positions as resize_absolute_positions
torch.manual_seed(0)
values = {
    "normal": normal_(torch.empty(64, 96), std=0.1),
    "truncated": truncated_normal_(torch.empty(64, 96), std=0.02, bound=0.02),
}
table = torch.randint(-999, 999, (3 + 49, 24)).float() / 1000
values["beit3"] = resize_positions(table, 144)
values["vlmo"] = resize_absolute_positions(table[None, 2:], 12)
values["bias"] = resize_bias_table(torch.randint(-999, 999, (13 * 13 + 3 + 2 * 20 + 2, 24)).float() / 1000, 12, 20)
print(tensors_digest(values))
"""


def digest_on(capability: str) -> str:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_what_is_part_of_a_backbones_identity_is_the_same_for_every_instruction_set():
    assert len({digest_on(capability) for capability in ("default", "avx2", "avx512")}) == 1


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_a_normal_has_its_deviation(std: float):
    torch.manual_seed(0)
    values = normal_(torch.empty(200, 200), std=std)
    assert values.std().item() == pytest.approx(std, rel=0.02)
    assert values.dtype == torch.float32


def test_a_truncated_normal_ends_at_its_bound():
    torch.manual_seed(0)
    values = truncated_normal_(torch.empty(200, 200), std=0.02, bound=0.02)
    assert 0.0199 < values.abs().max().item() <= 0.02
    assert values.std().item() == pytest.approx(0.0108, rel=0.02)
