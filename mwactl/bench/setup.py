"""What is compared, on what: everything that the processes of a comparison must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FULL, FULL_LEAN = "full", "full-lean"
MWA_PLAIN, MWA_STRONG, MWA, MWA_COMPILED, MWA_K = "mwa-plain", "mwa-strong", "mwa", "mwa-compiled", "mwa-k"
LORA = "lora"

#: In the order they are shown.
VARIANTS = {
    FULL: "full fine-tuning, plain structure, padded text",
    FULL_LEAN: "full fine-tuning by this toolkit's own model",
    MWA_PLAIN: "MWA, plain structure, padded text, naive attention",
    MWA_STRONG: "mwa-plain with fused attention, and blocks compiled on a GPU",
    LORA: "LoRA (peft) on the linear maps of the FFNs of this toolkit's model",
    MWA: "MWA as `mwactl train` trains it",
    MWA_COMPILED: "mwa with `train.compile=true`",
    MWA_K: "mwa with several captions a picture",
}

#: Variants that compute the same loss and the same gradients of the same trained tensors; the first is the reference.
SAME_FUNCTION = ((FULL, FULL_LEAN), (MWA_PLAIN, MWA_STRONG, MWA, MWA_COMPILED))


class UnavailableError(Exception):
    """A variant cannot be measured here; the reason is for the user. It is left out, by name."""


@dataclass(frozen=True)
class Setup:
    """One comparison.

    Args:
        backbone: Its name.
        weights: `random`, `default`, a tag or a file.
        seed: Of random weights, of the adapter's values and of the synthetic batch.
        batch_size: b, the pairs of a step.
        captions_per_image: k, of `mwa-k`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        precision: In which the timed steps compute. The check of function is always fp32.
        threads: Of the CPU; None: torch's own choice.
        rounds: How often every variant's turn comes.
        steps: Timed steps of a turn.
    """

    backbone: str
    weights: str = "random"
    seed: int = 0
    batch_size: int = 8
    captions_per_image: int = 5
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int | None = None
    rounds: int = 7
    steps: int = 2
