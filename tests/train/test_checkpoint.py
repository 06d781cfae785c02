from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from mwactl.errors import IncompatibleError, ResourceError, VerificationError
from mwactl.train import checkpoint
from mwactl.train.checkpoint import Checkpoint, Position

CPU = torch.device("cpu")


def make(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        position=Position(step=step, best_rsum=123.4, best_epoch=2, seconds=5.5),
        model={"adapter.a/b": torch.randn(3, 4, generator=generator), "adapter.alpha": torch.tensor(float(step))},
        best={"adapter.a/b": torch.zeros(3, 4)},
        optimiser={"step.adapter.alpha": torch.tensor(3.0)},
        random=checkpoint.random_state(CPU),
        scaler={"scale": 2.0},
    )


def test_what_was_saved_is_loaded(tmp_path: Path):
    saved = make(7)
    checkpoint.save(tmp_path, saved, identity="me")
    found = checkpoint.load(tmp_path, identity="me")
    assert found is not None
    assert found.position == saved.position
    assert found.scaler == saved.scaler
    for group in ("model", "best", "optimiser", "random"):
        mine, theirs = getattr(saved, group), getattr(found, group)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_where_there_is_none_nothing_is_loaded(tmp_path: Path):
    assert checkpoint.load(tmp_path, identity="me") is None


def test_the_random_state_goes_on_where_it_was():
    state = checkpoint.random_state(CPU)
    expected = torch.rand(5)
    torch.rand(3)
    checkpoint.restore_random_state(state, CPU)
    assert torch.equal(torch.rand(5), expected)


def test_another_runs_checkpoint_is_refused(tmp_path: Path):
    checkpoint.save(tmp_path, make(1), identity="me")
    with pytest.raises(IncompatibleError, match="another run") as caught:
        checkpoint.load(tmp_path, identity="you")
    assert "--restart" in str(caught.value.fix)


def test_a_checkpoint_cut_short_is_refused(tmp_path: Path):
    checkpoint.save(tmp_path, make(1), identity="me")
    file = tmp_path / checkpoint.FILE_NAME
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(VerificationError):
        checkpoint.load(tmp_path, identity="me")


def test_one_changed_bit_in_a_tensor_is_refused(tmp_path: Path):
    checkpoint.save(tmp_path, make(1), identity="me")
    file = tmp_path / checkpoint.FILE_NAME
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(VerificationError, match="damaged") as caught:
        checkpoint.load(tmp_path, identity="me")
    assert "--restart" in str(caught.value.fix)


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint.save(tmp_path, make(1), identity="me")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ResourceError):
        patch.setattr(os, "fsync", full)
        checkpoint.save(tmp_path, make(2), identity="me")
    found = checkpoint.load(tmp_path, identity="me")
    assert found is not None
    assert found.position.step == 1
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE_NAME]


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_kill_while_saving_leaves_the_previous_checkpoint_whole(tmp_path: Path, call: str):
    checkpoint.save(tmp_path, make(1), identity="me")
    child = os.fork()
    if child == 0:
        setattr(os, call, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        checkpoint.save(tmp_path, make(2), identity="me")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was not killed where it should have been"
    found = checkpoint.load(tmp_path, identity="me")
    assert found is not None
    assert found.position.step == 1
