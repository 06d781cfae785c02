"""Several processes that train one run: who they are, and what they tell each other.

Each process loads and encodes its own share of every batch. The embeddings of all are gathered, each process computes
the whole loss of them and continues its gradient into its own rows alone; so the sum of the processes' gradients is
the gradient of the whole batch, and that sum is all that is exchanged of it. What the loss reads beside the embeddings
(the temperature) gets its gradient in the first process only: it must count once.

Shape notation: n processes, p pictures, c captions, e the width of the shared space.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mwactl.backbone.precision import choose_device
from mwactl.errors import IncompatibleError, MwactlError, UsageError

T = TypeVar("T")

#: A process that dies is noticed at once; this is for one that works: validation and publishing are the first's alone.
_LONGEST_WAIT = timedelta(hours=24)
_CPU = torch.device("cpu")


class PeerLostError(MwactlError):
    """Another process of the run is gone; that one's error is the one to tell."""


@dataclass(frozen=True)
class Room:
    """Memory for rows of every process.

    Args:
        own: This process's rows, padded to as many as any has.
        found: Where those of each will be.
    """

    own: Tensor
    found: list[Tensor]


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them. As it is by default: one that is alone.

    Args:
        rank: This process, from 0.
        count: How many there are.
        local_rank: This process among those of its machine.
        local_count: How many its machine has.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def alone(self) -> bool:
        """Whether there are no others, and nothing is ever exchanged."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks, saves, validates and publishes."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch: contiguous, in the order of the ranks; may be empty."""
        return rows[len(rows) * self.rank // self.count : len(rows) * (self.rank + 1) // self.count]

    def from_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, on all of them.

        Raises:
            PeerLostError: It failed.
        """
        if self.alone:
            return compute()
        told: list[Any] = [compute() if self.first else None]
        with _naming_a_lost_peer():
            dist.broadcast_object_list(told, src=0, device=_CPU)
        value: T = told[0]
        return value

    def same_run(self, identity: str) -> None:
        """Make sure that all are about to train the same run.

        Raises:
            IncompatibleError: This process is not.
        """
        if self.from_first(lambda: identity) != identity:
            raise IncompatibleError(
                f"process {self.rank} would train another run than process 0",
                why="its recipe, pictures, captions, backbone weights or version of mwactl are others",
                fix="give every machine the same ones",
            )

    @contextmanager
    def first_of_each_machine(self) -> Iterator[None]:
        """One process of each machine does it, then the others: what it wrote is there for them to read."""
        if self.local_rank > 0:
            self._meet()
        yield
        if self.local_rank == 0:
            self._meet()

    def gather(self, own: Tensor) -> list[Tensor]:
        """A tensor of every process, all of one shape; in the order of the ranks."""
        return self.gather_rows(self.room_for(own, [len(own)] * self.count), [len(own)] * self.count)

    def room_for(self, rows: Tensor, counts: Sequence[int]) -> Room:
        """The memory that `gather_rows` needs."""
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        return Room(padded, [torch.empty_like(padded) for _ in counts])

    def gather_rows(self, room: Room, counts: Sequence[int]) -> list[Tensor]:
        """[r, …] of every process, in the order of the ranks; `counts` are the numbers r of all, and may differ."""
        with _naming_a_lost_peer():
            dist.all_gather(room.found, room.own)
        return [rows[:count] for rows, count in zip(room.found, counts, strict=True)]

    def gather_flat(self, found: Tensor, own: Tensor) -> None:
        """[n] of every process into one [count * n], in the order of the ranks."""
        with _naming_a_lost_peer():
            dist.all_gather_into_tensor(found, own)

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by the sum of every process's; the same bits in all."""
        with _naming_a_lost_peer():
            dist.all_reduce(tensor)

    def spread(self, tensor: Tensor) -> None:
        """Replace a tensor by the first process's."""
        with _naming_a_lost_peer():
            dist.broadcast(tensor, src=0)

    def _meet(self) -> None:
        if not self.alone:
            self.add_up(torch.zeros(1))


ALONE = Processes()


@contextmanager
def joined(device: str, *, init_method: str | None = None) -> Iterator[Processes]:
    """Join the processes that `torchrun` (and so `mwactl train --nproc`) started; alone where it did not.

    On GPUs each process takes the one of its local rank, and NCCL carries what is on them; gloo carries the rest.

    Args:
        device: `train.device`.
        init_method: Where they meet; None: as torchrun's environment says.

    Raises:
        UsageError: The device is one for a single process, or is not here; or something else started several.
        PeerLostError: The others cannot be met.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1":
        yield ALONE
        return
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        count, rank, local_rank, local_count = (int(os.environ[name]) for name in names)
    except (KeyError, ValueError) as error:
        missing = f" but no {error.args[0]}" if isinstance(error, KeyError) else ", or a rank, that is no number"
        raise UsageError(
            f"the environment has WORLD_SIZE={world}{missing}",
            why="it is not torchrun that started this process",
            fix="mwactl train … --nproc N, or unset WORLD_SIZE",
        ) from error
    processes = Processes(rank, count, local_rank, local_count)
    backend = "gloo"
    if uses_gpus(device, local_count):
        torch.cuda.set_device(local_rank)  # `cuda` without a number is this one from now on
        backend = "cpu:gloo,cuda:nccl"
    with _naming_a_lost_peer():
        dist.init_process_group(
            backend, init_method=init_method, rank=processes.rank, world_size=count, timeout=_LONGEST_WAIT
        )
    yield processes
    dist.destroy_process_group()  # not after an error: it might wait for a process that is gone


def uses_gpus(device: str, processes: int) -> bool:
    """Whether so many processes of this machine compute on a GPU each.

    Raises:
        UsageError: There are not as many, or the recipe names one.
    """
    if choose_device(device).type != "cuda":
        return False
    here = torch.cuda.device_count()
    if device.startswith("cuda:"):
        raise UsageError(f"train.device={device} is one GPU, for {processes} processes", fix="train.device=cuda")
    if processes > here:
        raise UsageError(
            f"{processes} processes need as many GPUs",
            why=f"there {'is 1' if here == 1 else f'are {here}'}",
            fix=f"--nproc {here}, or train.device=cpu",
        )
    return True


@contextmanager
def _naming_a_lost_peer() -> Iterator[None]:
    """A collective fails where a process it waits for has gone."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # gloo begins with a place in its own source, and ends with what might be the cause.
        why = re.sub(r"^\[[^]]*\] *", "", str(error).splitlines()[0]).partition(". ")[0]
        raise PeerLostError("another process of this run is gone", why=why[:200]) from error
