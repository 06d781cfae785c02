"""The learning rate over a run: linear warm-up, then a cosine."""

from __future__ import annotations

import math


def learning_rate(step: int, *, total: int, warmup: float, peak: float, floor: float) -> float:
    """The learning rate of a step.

    Args:
        step: Counted from 0.
        total: Steps of the whole run.
        warmup: The share of all steps over which the rate rises linearly to `peak`; the first step is not at 0.
        peak: The highest rate.
        floor: The rate after the last step.
    """
    warmup_steps = math.ceil(total * warmup)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
