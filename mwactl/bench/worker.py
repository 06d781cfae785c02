"""A variant in a process of its own: its memory is its own, and it waits while the others have their turn."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mwactl.backbone.precision import Precision, choose_device, hold_frozen
from mwactl.bench.batch import Batch, load_batch
from mwactl.bench.contestant import Contestant, build_contestant
from mwactl.bench.machine import give_back_memory, machine, versions
from mwactl.bench.measure import counting_flops, matmul_rate, saved_bytes_per_pair
from mwactl.bench.setup import Setup, UnavailableError
from mwactl.bench.step import Stepper, StepTime
from mwactl.errors import MwactlError
from mwactl.train.log import peak_memory_bytes

#: Pairs on which functions are compared: enough for negatives, and few enough for fp32 wherever bf16 fits.
_CHECKED_PAIRS = 8
#: Numbers of a gradient that are compared (evenly spaced), so that all of full fine-tuning's fit into a file.
_COMPARED_NUMBERS = 1 << 15
_GPU_WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Built:
    """What is known of a variant as soon as it is built.

    Args:
        trained: How many numbers it trains.
        pairs: Of one step.
        notes: What a reader must know of it.
        machine: Where it runs.
        versions: What it runs on.
    """

    trained: int
    pairs: int
    notes: list[str]
    machine: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Checked:
    """One fp32 step on the first pairs.

    Args:
        loss: Its loss.
        flops_per_pair: Operations of forward and backward pass.
    """

    loss: float
    flops_per_pair: float


class Worker:
    """One variant on its device; every public method is a command of the comparison."""

    def __init__(self, variant: str, setup: Setup, batch_file: Path) -> None:
        self._variant, self._setup = variant, setup
        self._batch_file = batch_file
        self._device = choose_device(setup.device)
        self._precision: Precision = setup.precision
        self._contestant: Contestant
        self._stepper: Stepper
        self._batch: Batch

    def build(self) -> Built:
        """Build the model and load the batch.

        Raises:
            UnavailableError: The variant cannot be measured here.
        """
        if self._setup.threads is not None:
            torch.set_num_threads(self._setup.threads)
        self._contestant = build_contestant(self._variant, self._setup, self._device)
        self._stepper = Stepper(self._contestant, self._device)
        batch = load_batch(self._batch_file)
        if self._contestant.several and batch.captions_per_image == 1:
            raise UnavailableError("there is one caption a picture")
        self._batch = (batch.several() if self._contestant.several else batch.pairs()).to(self._device)
        trained = sum(parameter.numel() for parameter in self._stepper.parameters.values())
        pairs = len(self._batch.pixels) * self._batch.captions_per_image
        return Built(trained, pairs, self._contestant.notes, machine(self._device), versions())

    def check(self, gradients: Path) -> Checked:
        """Loss and gradients in fp32, on at most eight pairs; the gradients go to a file."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        batch = self._first_pairs()
        loss, flops = counting_flops(lambda: self._stepper.forward_backward(batch, "fp32"))
        safetensors.torch.save_file(self._sampled_gradients(), gradients)
        self._rest()
        return Checked(loss.item(), flops / (len(batch.pixels) * batch.captions_per_image))

    def _first_pairs(self) -> Batch:
        pictures = max(2, _CHECKED_PAIRS // self._batch.captions_per_image)
        return Batch(self._batch.pixels[:pictures], self._batch.tokens[:pictures], self._batch.padding)

    def _sampled_gradients(self) -> dict[str, Tensor]:
        sampled = {}
        for name, parameter in self._stepper.parameters.items():
            if parameter.grad is not None:
                numbers = parameter.grad.flatten()
                step = max(1, len(numbers) // _COMPARED_NUMBERS)
                sampled[name] = numbers[::step].detach().cpu().contiguous()
        return sampled

    def warm_up(self) -> None:
        """Cast and compile what is to be, and take the steps that are slower than the rest."""
        if self._contestant.lean is not None:
            hold_frozen(self._contestant.lean, self._precision)
        if self._contestant.compile is not None:
            self._contestant.compile()
        for _ in range(_GPU_WARM_UP_STEPS if self._device.type == "cuda" else 1):
            self._stepper.step(self._batch, self._precision)
        self._rest()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def turn(self) -> list[StepTime]:
        """The steps of one round."""
        if self._device.type == "cuda":
            self._stepper.step(self._batch, self._precision)  # takes back the memory that the others had
        times = [self._stepper.step(self._batch, self._precision) for _ in range(self._setup.steps)]
        self._rest()
        return times

    def peak_memory(self) -> int:
        """Of the GPU in the timed steps, or of this process."""
        return peak_memory_bytes(self._device)

    def saved_bytes(self) -> float:
        """Bytes that autograd saves, per pair."""
        saved = saved_bytes_per_pair(self._stepper, self._batch, self._precision)
        self._rest()
        return saved

    def matmul_rate(self) -> float:
        """The best rate of matrix products here, operations a second."""
        return matmul_rate(self._device, self._precision)

    def _rest(self) -> None:
        """Leave the memory to the others."""
        self._stepper.forget()
        give_back_memory(self._device)


def serve(connection: Connection, variant: str, setup: Setup, batch_file: Path) -> None:
    """Carry out commands until the other side closes the connection: the body of the process.

    A command is a method's name and its arguments; the answer is `("done", result)`, `("unavailable", why)`,
    `("error", MwactlError)` or `("bug", text)`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other side, which then closes the connection
    try:
        worker: Worker | None = None
        while True:
            name, arguments = connection.recv()
            worker = worker or Worker(variant, setup, batch_file)
            connection.send(_answer(getattr(worker, name), arguments))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(command: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", command(*arguments)
    except UnavailableError as reason:
        return "unavailable", str(reason)
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return "unavailable", f"out of memory: {str(error).splitlines()[0][:150]}"
    except MwactlError as error:
        return "error", (type(error), error.what, {"where": error.where, "why": error.why, "fix": error.fix})
    except Exception as error:  # the other side tells it, with the variant's name
        return "bug", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
