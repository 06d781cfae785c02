"""Every exit code can be reached by typing something."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from mwactl.data import catalogue
from mwactl.errors import ExitCode
from mwactl.registry import Registry
from mwactl.workflow import evaluate as evaluation


def typed_done(cli, **_) -> int:
    return cli("registry", "list").code


def typed_failed(cli, *, home: Path, **_) -> int:
    home.mkdir(exist_ok=True)
    (home / "data.json").write_text("{ no JSON")
    return cli("data", "list").code


def typed_usage(cli, **_) -> int:
    return cli("eval").code


def typed_not_found(cli, **_) -> int:
    return cli("registry", "show", "absent").code


def typed_incompatible(cli, *, clip: Path, recipe: Path, home: Path, **_) -> int:
    import safetensors.torch

    folder = Path(shutil.copytree(clip, home / "clip"))
    assert cli("inject", "--backbone", f"clip:local-dir:{folder}", "--name", "mine").code == 0
    state = safetensors.torch.load_file(folder / "open_clip_model.safetensors")
    state["logit_scale"] += 1e-3
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    return cli("eval", "mine", "--data", "tiny").code


def typed_verification(cli, *, recipe: Path, **_) -> int:
    assert cli("train", recipe, "train.epochs=1").code == 0
    registry = Registry.default()
    [file] = [f for f in registry.resolve("tiny-mwa").manifest["files"] if f["path"] == "adapter.safetensors"]
    blob = registry.root / "blobs" / "sha256" / file["sha256"][:2] / file["sha256"]
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    return cli("eval", "tiny-mwa", "--data", "tiny").code


def typed_resources(cli, *, clip: Path, monkeypatch: pytest.MonkeyPatch, **_) -> int:
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(evaluation, "encode_split", full)
    return cli("eval", "--backbone", f"clip:local-dir:{clip}", "--data", "tiny").code


def typed_interrupted(cli, *, recipe: Path, monkeypatch: pytest.MonkeyPatch, **_) -> int:
    monkeypatch.setattr("mwactl.config.load_recipe", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    return cli("train", recipe).code


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name)
def test_the_exit_code_can_be_reached(
    code: ExitCode, mwactl_cli, tiny_clip, tiny_recipe, empty_home: Path, monkeypatch: pytest.MonkeyPatch
):
    typed = globals()[f"typed_{code.name.lower()}"]
    found = typed(mwactl_cli, clip=tiny_clip, recipe=tiny_recipe, home=empty_home, monkeypatch=monkeypatch)
    assert found == code


def test_a_full_disk_exits_6_and_leaves_the_catalogue_as_it_was(
    mwactl_cli, tiny_data, tiny_pictures: Path, monkeypatch
):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = ["--annotations", tiny_pictures / "dataset.json", "--images", tiny_pictures / "images"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = mwactl_cli("data", "add", "other", "--format", "karpathy", *files)
    assert (result.code, result.stdout) == (6, "")
    assert "MB are free" in result.stderr
    assert [entry.name for entry in catalogue.Catalogue.default().entries()] == ["tiny"]


def test_too_little_gpu_memory_while_training_exits_6(mwactl_cli, tiny_recipe: Path, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("mwactl.train.objective.contrastive_loss", full)
    result = mwactl_cli("train", tiny_recipe)
    assert (result.code, result.stdout) == (6, "")
    assert "fix: train.micro_batch_size=auto" in result.stderr
