"""The one training loop.

Everything a step depends on is either a pure function of the seed and the step's number or is in the checkpoint, so a
run that was killed and resumed ends with the same tensors as one that was not (same machine, CPU).

Several processes run the same loop side by side; each trains the same parameters with its share of every batch, and
only the first speaks, logs, saves and validates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel
from mwactl.backbone.precision import choose_device, choose_precision, hold_frozen
from mwactl.config.recipe import TrainConfig
from mwactl.data.loader import PairBatch
from mwactl.errors import Interrupted, MwactlError
from mwactl.progress import Reporter, Silent
from mwactl.train import checkpoint as checkpoints
from mwactl.train.checkpoint import Checkpoint, Position
from mwactl.train.compiled import compile_blocks, naming_compiler_errors
from mwactl.train.distributed import ALONE, Processes
from mwactl.train.gradients import BatchGradients
from mwactl.train.interrupt import StopAtAStep
from mwactl.train.log import RunLog, peak_memory_bytes
from mwactl.train.micro_batch import MicroBatch
from mwactl.train.moving_average import MovingAverage
from mwactl.train.objective import Objective
from mwactl.train.optimiser import adamw, optimiser_state, restore_optimiser
from mwactl.train.sampling import EpochPlan
from mwactl.train.schedule import learning_rate
from mwactl.train.share import LoadBatches, load_share
from mwactl.train.track import Trackers

Validate = Callable[[], dict[str, float]]

_LOG_EVERY_STEPS = 10
_LARGEST_LOGIT_SCALE = math.log(100)  # CLIP, section 2.4


@dataclass(frozen=True)
class TrainOutcome:
    """What a finished run gives.

    Args:
        state: The trained tensors: the best epoch's, or the last one's where nothing was validated.
        steps: Steps of the whole run; fewer than planned where `train.patience` ended it.
        seconds: Spent training and validating, over all resumptions.
        seconds_per_step: The median of this process's steps, without waiting for data.
        peak_memory_bytes: Of the GPU, or of this process.
        best_epoch: Counted from 1; None where nothing was validated.
        best_rsum: That epoch's validation RSUM.
        validation_rsums: Every epoch's.
        micro_batch_size: Pictures, or captions, that were encoded at once in the end; None: whole batches.
    """

    state: dict[str, Tensor]
    steps: int
    seconds: float
    seconds_per_step: float | None
    peak_memory_bytes: int
    best_epoch: int | None
    best_rsum: float | None
    validation_rsums: tuple[float, ...] = ()
    micro_batch_size: int | None = None


class TrainingRun:
    """One run of one recipe.

    Args:
        model: Injected and on any device; is moved and trained in place.
        plan: Which pairs each step sees.
        load_batches: Turns rows into tensors.
        config: How to train.
        folder: Where checkpoint and log go.
        identity: A digest of recipe, data and backbone, so that a checkpoint is never used for another run.
        validate: Gives validation metrics with `rsum` among them; None: the last epoch is kept.
        resume_command: What to type after an interruption.
        processes: Who trains it together.
        trackers: Where the log is shown too.
    """

    def __init__(
        self,
        model: AdaptedModel,
        plan: EpochPlan,
        load_batches: LoadBatches,
        config: TrainConfig,
        *,
        folder: Path,
        identity: str,
        validate: Validate | None = None,
        resume_command: str = "",
        reporter: Reporter | None = None,
        processes: Processes = ALONE,
        trackers: Trackers | None = None,
    ) -> None:
        self.model = model
        self.plan = plan
        self.config = config
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        self._load_batches = load_batches
        self._folder = folder
        self._identity = identity
        self._validate = validate
        self._resume_command = resume_command
        self._processes = processes
        self._reporter = reporter if reporter is not None and processes.first else Silent()
        self.log = RunLog(folder if processes.first else None, trackers)
        hold_frozen(model.backbone, self.precision)
        if config.compile:
            compile_blocks(model)
        self._sharded = config.shard_backbone and not processes.alone
        if self._sharded:
            from mwactl.train.sharding import shard_blocks  # FSDP takes long to import

            shard_blocks(model.backbone, processes, self.device)  # first: no device may hold it whole
        model.to(self.device)
        self._objective = Objective(config, model.backbone)
        self._parameters: dict[str, nn.Parameter] = model.trainable() | self._objective.trainable()
        self._average = None if config.ema is None else MovingAverage(model.trainable(), config.ema)
        self._optimiser = adamw(self._parameters, config)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._logit_scale_limit = max(_LARGEST_LOGIT_SCALE, model.backbone.logit_scale.max().item())
        self._position = Position()
        self._best: dict[str, Tensor] = {}
        self._saved = False
        self._stop = StopAtAStep(resume_command)
        self._micro_batch = MicroBatch(
            config.micro_batch_size, config.batch_size, processes.count, sharded=self._sharded
        )
        self._gradients = BatchGradients(
            model, self._objective, device=self.device, precision=self.precision, scaler=self._scaler, seed=config.seed,
            micro_batch=self._micro_batch, processes=processes, asked_to_stop=lambda: self._stop.asked,
            sharded=self._sharded,
        )  # fmt: skip
        self._step_seconds: list[float] = []

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.plan.steps_per_epoch * self.config.epochs

    def resume(self) -> bool:
        """Go on from the run's checkpoint; False where there is none.

        Raises:
            VerificationError: The checkpoint is damaged.
            IncompatibleError: It belongs to another run.
        """
        found = self._processes.from_first(lambda: checkpoints.load(self._folder, identity=self._identity))
        if found is None:
            return False
        self.model.load_adapter_state(found.model)
        self._objective.restore(found.loss)
        if self._average is not None:
            self._average.restore(found.average)
        restore_optimiser(self._optimiser, self._parameters, found.optimiser)
        if found.scaler:
            self._scaler.load_state_dict(found.scaler)
        checkpoints.restore_random_state(found.random, self.device)
        self._position, self._best, self._saved = found.position, found.best, True
        self._micro_batch.resume(found.position.micro_batch_size)
        return True

    def run(self) -> TrainOutcome:
        """Train to the end.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the checkpoint is written first.
            ResourceError: The GPU's memory is not enough.
            MwactlError: The loss is no longer a number.
            PeerLostError: Another process of the run is gone.
        """
        if self._position.step == 0:
            torch.manual_seed(self.config.seed)
        self._gradients.start_equal()
        self.log.write(
            "start", step=self._position.step, total_steps=self.total_steps, precision=self.precision,
            processes=self._processes.count,
        )  # fmt: skip
        progress = self._reporter.progress("training", self.total_steps, done=self._position.step)
        self.model.train()
        began, before = time.monotonic(), self._position.seconds
        try:
            with self._stop, naming_compiler_errors() if self.config.compile else nullcontext():
                if self._position.step == (self._position.validated_epochs + 1) * self.plan.steps_per_epoch:
                    self._end_of_epoch()
                rows = self.plan.batches(first_step=self._position.step, epochs=self.config.epochs)
                if self._out_of_patience():
                    rows = iter(())
                waiting_since = time.monotonic()
                for batch in load_share(self._processes, self._load_batches, rows):
                    waited = time.monotonic() - waiting_since
                    loss = self._step(batch, waited)
                    self._position = replace(
                        self._position, step=self._position.step + 1, seconds=before + time.monotonic() - began
                    )
                    stall = waited / (waited + self._step_seconds[-1])
                    progress.advance(note=f"loss {loss:.3f}, data stall {stall:.0%}")
                    self._after_step()
                    if self._out_of_patience():
                        self._reporter.info(f"stopped: no better validation in {self.config.patience} epochs")
                        break
                    waiting_since = time.monotonic()
        except torch.cuda.OutOfMemoryError as error:
            raise self._micro_batch.too_large(error) from error
        finally:
            progress.close()
        return self._outcome()

    def _step(self, batch: PairBatch, waited: float) -> float:
        """One optimiser step; returns the loss."""
        began = time.monotonic()
        step = self._position.step
        rate = learning_rate(
            step, total=self.total_steps, warmup=self.config.warmup, peak=self.config.lr, floor=self.config.min_lr
        )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        loss = self._gradients.of(batch, step)
        self._note_micro_batch()
        self._scaler.unscale_(self._optimiser)
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self.config.clip_norm or math.inf).item()
        value = loss.item()
        # In fp16 an overflowing gradient is expected now and then: the scaler skips the step and scales less.
        if not math.isfinite(value) or not (math.isfinite(norm) or self.precision == "fp16"):
            otherwise = "" if self.precision == "fp32" else ", or train.precision=fp32"
            what = f"the loss became {value}" if not math.isfinite(value) else f"the gradient's norm became {norm}"
            raise MwactlError(
                f"{what} at step {step + 1}",
                why="the last checkpoint is untouched" if self._saved else "no checkpoint was saved before",
                fix=f"train.lr={self.config.lr / 3:.1g}{otherwise}",
            )
        self._scaler.step(self._optimiser)
        self._scaler.update()
        with torch.no_grad():
            scale = self.model.backbone.logit_scale
            if scale.requires_grad:
                scale.clamp_(max=self._logit_scale_limit)
        if self._average is not None:
            self._average.update(step)
        seconds = time.monotonic() - began
        self._step_seconds.append(seconds)
        if step % _LOG_EVERY_STEPS == 0:
            self.log.write(
                "step", step=step + 1, epoch=step // self.plan.steps_per_epoch + 1, loss=value, lr=rate,
                pairs_per_second=self._gradients.pairs / (seconds + waited), data_stall=waited / (seconds + waited),
                peak_memory_bytes=peak_memory_bytes(self.device),
            )  # fmt: skip
        return value

    def _note_micro_batch(self) -> None:
        """Tell, and remember for a resumption, what `train.micro_batch_size: auto` has come to."""
        size = self._micro_batch.size
        if not self._micro_batch.auto or (self._position.step > 0 and size == self._position.micro_batch_size):
            return
        self._position = replace(self._position, micro_batch_size=size)
        self.log.write("micro_batch", step=self._position.step + 1, size=size)
        held = "whole batches" if size is None else f"{size} of {self.config.batch_size} pairs at once"
        self._reporter.info(f"micro batch: the memory holds {held}")

    def _after_step(self) -> None:
        """Checkpoint when due, validate at an epoch's end, stop when asked.

        The checkpoint comes first: a validation that fails costs nothing but itself, and is repeated on resuming.
        """
        step = self._position.step
        at_epoch_end = step % self.plan.steps_per_epoch == 0
        every = self.config.checkpoint_every or self.plan.steps_per_epoch
        if step % every == 0 or at_epoch_end:
            self._save()
        if at_epoch_end:
            self._end_of_epoch()
        if self._gradients.stop and not self._out_of_patience() and step < self.total_steps:
            self._save()
            raise Interrupted(
                f"interrupted at step {step:,} of {self.total_steps:,}; the checkpoint is saved",
                fix=self._resume_command or None,
            )

    def _end_of_epoch(self) -> None:
        epoch = self._position.step // self.plan.steps_per_epoch
        self._position = replace(self._position, validated_epochs=epoch)
        if self._validate is None:
            return
        with self._averaged():
            self.model.eval()
            metrics = self._validated(self._validate)
            self.model.train()
            state = self._copied_state()
        self.log.write("validation", epoch=epoch, step=self._position.step, **metrics)
        rsums = (*self._position.validation_rsums, metrics["rsum"])
        self._position = replace(self._position, validation_rsums=rsums)
        best = self._position.best_rsum
        if best is None or metrics["rsum"] > best:
            self._position = replace(self._position, best_rsum=metrics["rsum"], best_epoch=epoch)
            self._best = state
        mark = " (best so far)" if self._position.best_epoch == epoch else ""
        self._reporter.info(f"epoch {epoch}/{self.config.epochs}  validation RSUM {metrics['rsum']:.1f}{mark}")

    def _validated(self, validate: Validate) -> dict[str, float]:
        """The first process's metrics. The others validate too where the first's blocks are not whole without them."""
        if not self._sharded:
            return self._processes.from_first(validate)
        metrics = validate()
        return self._processes.from_first(lambda: metrics)

    def _copied_state(self) -> dict[str, Tensor]:
        """The trained tensors as they are now, whatever becomes of the model."""
        return {name: tensor.clone() for name, tensor in self.model.adapter_state().items()}

    def _averaged(self) -> AbstractContextManager[None]:
        """What is validated and kept, in the model: the moving average, where there is one."""
        return nullcontext() if self._average is None else self._average.in_place()

    def _out_of_patience(self) -> bool:
        """Whether `train.patience` epochs have passed since the best one."""
        position, patience = self._position, self.config.patience
        if patience is None or position.best_epoch is None:
            return False
        return position.validated_epochs - position.best_epoch >= patience

    def _save(self) -> None:
        self._saved = True
        if not self._processes.first:
            return
        checkpoints.save(
            self._folder,
            Checkpoint(
                position=self._position,
                model=self.model.adapter_state(),
                best=self._best,
                optimiser=optimiser_state(self._optimiser, self._parameters),
                random=checkpoints.random_state(self.device),
                average={} if self._average is None else self._average.state(),
                loss=self._objective.state(),
                scaler=self._scaler.state_dict(),
            ),
            identity=self._identity,
        )

    def _outcome(self) -> TrainOutcome:
        times = sorted(self._step_seconds)
        with self._averaged():
            state = self._best or self._copied_state()
        self.log.write("end", step=self._position.step, best_epoch=self._position.best_epoch)
        return TrainOutcome(
            state=state,
            steps=self._position.step,
            seconds=self._position.seconds,
            seconds_per_step=times[len(times) // 2] if times else None,
            peak_memory_bytes=peak_memory_bytes(self.device),
            best_epoch=self._position.best_epoch,
            best_rsum=self._position.best_rsum,
            validation_rsums=self._position.validation_rsums,
            micro_batch_size=self._micro_batch.size,
        )
