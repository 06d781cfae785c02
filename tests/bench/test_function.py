from __future__ import annotations

import pytest
import safetensors.torch
import torch

from mwactl.bench.function import compare_functions
from mwactl.errors import ExitCode, VerificationError

GRADIENTS = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0])}


@pytest.fixture
def compare(tmp_path):
    """compare(loss, gradients): a variant beside a reference with loss 2 and GRADIENTS."""

    def of(loss, gradients):
        files = {"ours": tmp_path / "ours", "theirs": tmp_path / "theirs"}
        safetensors.torch.save_file(gradients, files["ours"])
        safetensors.torch.save_file(GRADIENTS, files["theirs"])
        return compare_functions("ours", "theirs", {"ours": loss, "theirs": 2.0}, files)

    return of


def test_the_difference_is_that_of_the_worst_tensor(compare):
    difference = compare(2.00001, {"a": GRADIENTS["a"] * (1 + 1e-5), "b": GRADIENTS["b"] * (1 + 5e-5)})
    assert difference.tensor == "b"
    assert difference.gradient == pytest.approx(5e-5, rel=0.01)
    assert difference.loss == pytest.approx(5e-6, rel=0.01)


@pytest.mark.parametrize(
    ("loss", "gradients", "why"),
    [
        (2.0001, GRADIENTS, "losses"),
        (float("nan"), GRADIENTS, "losses"),
        (2.0, {**GRADIENTS, "b": torch.tensor([1.001])}, "gradients of b"),
        (2.0, {**GRADIENTS, "b": torch.tensor([float("nan")])}, "gradients of b"),
        (2.0, {"a": GRADIENTS["a"]}, "b has a gradient in one"),
    ],
)
def test_another_loss_or_gradient_is_another_function(compare, loss, gradients, why):
    with pytest.raises(VerificationError, match=why) as error:
        compare(loss, gradients)
    assert error.value.exit_code == ExitCode.VERIFICATION


def test_a_gradient_that_is_zero_but_for_rounding_does_not_count(tmp_path):
    """The bias of keys shifts all scores of a query alike."""
    files = {name: tmp_path / name for name in ("ours", "theirs")}
    for sign, file in zip((1, -1), files.values(), strict=True):
        safetensors.torch.save_file({**GRADIENTS, "key.bias": torch.full((4,), sign * 1e-8)}, file)
    assert compare_functions("ours", "theirs", {"ours": 1.0, "theirs": 1.0}, files).gradient < 1e-5
