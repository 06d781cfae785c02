"""One training loop: loss, schedule, sampling, checkpoints, exact resume."""

from mwactl.train.loop import TrainingRun, TrainOutcome
from mwactl.train.loss import contrastive_loss

__all__ = ["TrainOutcome", "TrainingRun", "contrastive_loss"]
