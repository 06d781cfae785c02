"""Run folders, written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mwactl.home import runs_path
from mwactl.train.checkpoint import Checkpoint, Position, save

Event = dict[str, Any]
Write = Callable[..., Path]


def start(step: int = 0, total: int = 30, **facts: Any) -> Event:
    return {"event": "start", "step": step, "total_steps": total, "processes": 1, **facts}


def step(number: int, loss: float = 1.0) -> Event:
    return {
        "event": "step", "step": number, "epoch": 1, "loss": loss, "lr": 1e-3, "pairs_per_second": 100.0,
        "data_stall": 0.25, "peak_memory_bytes": 2_000_000_000,
    }  # fmt: skip


def validation(epoch: int, at: int, rsum: float) -> Event:
    recalls = {"image_to_text_R@1": rsum / 10, "text_to_image_R@1": rsum / 20}
    return {"event": "validation", "epoch": epoch, "step": at, "rsum": rsum, **recalls}


@pytest.fixture
def write_run(empty_home: Path) -> Write:
    """write_run(name, *events, checkpoint=STEP): a run's folder."""

    def write(name: str, *events: Event, checkpoint: int | None = None) -> Path:
        folder = runs_path() / name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(f"name: {name.rpartition('-')[0]}\nmethod:\n  name: mwa\n")
        (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        if checkpoint is not None:
            state = Checkpoint(Position(step=checkpoint), {"a": torch.zeros(2)}, {}, {}, {}, {})
            save(folder, state, identity="any")
        return folder

    return write
