"""Resumable checkpoints: one safetensors file a run, replaced atomically, so it is complete or absent.

It holds everything that decides the rest of the run: the trained tensors, the best ones so far, AdamW's state, the
random state, and the position. No pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mwactl.adapter.serialise import from_bytes, to_bytes
from mwactl.backbone.fingerprint import tensors_digest
from mwactl.errors import IncompatibleError, VerificationError
from mwactl.files import atomic_write

FILE_NAME = "checkpoint.safetensors"
_SCHEMA = 1
_GROUPS = ("model", "best", "optimiser", "random", "average", "loss")


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Args:
        step: Steps done.
        best_rsum: The best validation RSUM so far; None before the first validation.
        best_epoch: The epoch (counted from 1) that reached it.
        validated_epochs: Epochs that were validated, or passed without a validation split.
        seconds: Time spent training so far.
        validation_rsums: The validation RSUM of every epoch so far; none where nothing is validated.
        micro_batch_size: What `train.micro_batch_size: auto` came to; None: whole batches.
    """

    step: int = 0
    validated_epochs: int = 0
    best_rsum: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    validation_rsums: tuple[float, ...] = ()
    micro_batch_size: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A run's whole state."""

    position: Position
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    random: dict[str, Tensor]
    scaler: dict[str, float]
    average: dict[str, Tensor] = field(default_factory=dict)
    """The moving average of what is trained, where there is one."""
    loss: dict[str, Tensor] = field(default_factory=dict)
    """What the loss itself learns."""


def save(folder: Path, checkpoint: Checkpoint, *, identity: str) -> None:
    """Replace the run's checkpoint.

    Args:
        folder: The run's folder.
        checkpoint: The state.
        identity: A digest of recipe, data and backbone; `load` refuses another.

    Raises:
        ResourceError: The disk is full; the previous checkpoint is untouched.
    """
    groups: dict[str, Mapping[str, Tensor]] = {group: getattr(checkpoint, group) for group in _GROUPS}
    tensors = {f"{group}/{name}": tensor for group, state in groups.items() for name, tensor in state.items()}
    facts = {
        "schema": _SCHEMA,
        "identity": identity,
        "digest": tensors_digest(tensors),
        "position": asdict(checkpoint.position),
        "scaler": checkpoint.scaler,
    }
    atomic_write(folder / FILE_NAME, to_bytes(tensors, facts))


def load(folder: Path, *, identity: str) -> Checkpoint | None:
    """The run's checkpoint, or None where there is none.

    Raises:
        VerificationError: The file is damaged.
        IncompatibleError: It belongs to another recipe, other data, or another backbone.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    tensors, facts = from_bytes(path.read_bytes(), where=str(path))
    if facts.get("schema") != _SCHEMA or facts.get("identity") != identity:
        raise IncompatibleError(
            "the checkpoint belongs to another run",
            where=str(path),
            why="the recipe, the data, the backbone or the version changed since it was written",
            fix="mwactl train … --restart  to begin again",
        )
    if facts["digest"] != tensors_digest(tensors):
        raise VerificationError(
            "the checkpoint is damaged",
            where=str(path),
            why="its tensors are not those that were saved",
            fix="mwactl train … --restart  to begin again",
        )
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    return Checkpoint(position=_position(facts["position"]), scaler=facts["scaler"], **groups)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _position(facts: dict[str, Any]) -> Position:
    """JSON has no tuples."""
    return Position(**{**facts, "validation_rsums": tuple(facts.get("validation_rsums", ()))})
