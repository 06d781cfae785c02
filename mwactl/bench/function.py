"""Whether two variants compute the same: the loss and the gradient of every trained tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from mwactl.errors import VerificationError

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
#: Gradients far below the others, such as those of key biases, are zero in exact arithmetic: they are compared with
#: this share of the mean norm.
_LEAST_SHARE = 1e-2


@dataclass(frozen=True)
class Difference:
    """How far a variant is from its reference, in fp32.

    Args:
        reference: The variant it is compared with.
        loss: Relative difference of the losses.
        gradient: The largest relative difference of a trained tensor's gradient (of norms).
        tensor: Which tensor that is.
    """

    reference: str
    loss: float
    gradient: float
    tensor: str

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def compare_functions(variant: str, reference: str, losses: dict[str, float], gradients: dict[str, Path]) -> Difference:
    """Compare two variants' losses and gradients.

    Raises:
        VerificationError: They differ by more than rounding does.
    """
    ours, theirs = (safetensors.torch.load_file(gradients[name]) for name in (variant, reference))
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise _other_function(variant, reference, why=f"{odd[0]} has a gradient in one of the two alone")
    loss = abs(losses[variant] - losses[reference]) / abs(losses[reference])
    gradient, tensor = _worst(ours, theirs)
    if not loss <= LOSS_TOLERANCE:
        raise _other_function(variant, reference, why=f"the losses differ by {loss:.1e}, allowed is {LOSS_TOLERANCE}")
    if not gradient <= GRADIENT_TOLERANCE:
        why = f"the gradients of {tensor} differ by {gradient:.1e}, allowed is {GRADIENT_TOLERANCE}"
        raise _other_function(variant, reference, why=why)
    return Difference(reference, loss, gradient, tensor)


def _worst(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    norms = {name: tensor.norm().item() for name, tensor in theirs.items()}
    least = _LEAST_SHARE * sum(norms.values()) / len(norms)
    apart = {
        name: (ours[name] - theirs[name]).norm().item() / max(norms[name], least) if least else float("inf")
        for name in theirs
    }
    # NaN is the worst of all.
    tensor = max(apart, key=lambda name: (apart[name] != apart[name], apart[name]))
    return apart[tensor], tensor


def _other_function(variant: str, reference: str, *, why: str) -> VerificationError:
    return VerificationError(
        f"`{variant}` does not compute what `{reference}` computes, so nothing was timed",
        why=why,
        fix=f"--variants without {variant}; and please report it",
    )
