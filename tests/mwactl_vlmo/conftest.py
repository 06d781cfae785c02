"""Tiny VLMos of both kinds, made here: nothing official is needed to test the plugin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mwactl.backbone import WeightsRequest, find_spec
from mwactl_vlmo.backbone import VlmoBackbone
from mwactl_vlmo.model import Vlmo
from mwactl_vlmo.sizes import VlmoConfig

WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]",
    "a", "an", "the", "and", "of", "in", "on", "with", "two", "three", "dog", "dogs", "cat", "man", "woman",
    "child", "plays", "runs", "snow", "grass", "##s", "##ing", "play", "run", "[", "]", ".", ",", "!",
)  # fmt: skip
#: Small, but no two sizes are equal that could be mistaken for each other.
RELATIVE = VlmoConfig(
    width=32, layers=3, heads=4, hidden=48, first_joint_block=2, image_size=64, vocabulary=60, text_length=12,
    bias_text_length=20,
)  # fmt: skip
ABSOLUTE = replace(RELATIVE, relative_positions=False, layer_scale=False)
KINDS = {"relative": RELATIVE, "absolute": ABSOLUTE}

Build = Callable[..., VlmoBackbone]


def randomised(model: Vlmo, seed: int) -> Vlmo:
    """Every parameter away from its initial value: no norm is trivial, no bias or table is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("logit"):
                is_factor = parameter.dim() == 1 and (name.endswith("weight") or "gamma" in name)
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + is_factor)
    return model


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Relative and absolute positions in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Vlmo]:
    """random_model(kind="relative", seed=0, pretraining=False, **sizes): a VLMo with seeded values."""
    torch.set_num_threads(1)  # matrices this small are slower on more

    def make(kind: str = "relative", seed: int = 0, *, pretraining: bool = False, **sizes: int) -> Vlmo:
        config = VlmoConfig(**asdict(KINDS[kind]) | sizes)
        with torch.random.fork_rng(devices=[]):
            return randomised(Vlmo(config, pretraining=pretraining), seed).eval()

    return make


@pytest.fixture(scope="session")
def write_vlmo() -> Callable[..., Path]:
    """write_vlmo(folder, state, kind="relative", **sizes): a folder for `vlmo:local-dir:`; None: no weights."""

    def write(folder: Path, state: dict[str, Tensor] | None, kind: str = "relative", **sizes: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(KINDS[kind]) | sizes))
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        if state is not None:
            safetensors.torch.save_file(state, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def tiny_vlmo(tmp_path: Path, kind: str, write_vlmo: Callable[..., Path], random_model: Callable[..., Vlmo]) -> Path:
    """The folder of a tiny VLMo of each kind with random weights: name it `vlmo:local-dir:FOLDER`."""
    return write_vlmo(tmp_path / f"tiny-{kind}", random_model(kind).state_dict(), kind)


@pytest.fixture
def build() -> Build:
    """build(folder or name, source=None, seed=0): a backbone with weights."""

    def build_one(name: Path | str, source: str | Path | None = None, *, seed: int = 0) -> VlmoBackbone:
        plugin, spec = find_spec(f"vlmo:local-dir:{name}" if isinstance(name, Path) else name)
        backbone = plugin.build(spec, WeightsRequest(None if source is None else str(source), seed=seed))
        assert isinstance(backbone, VlmoBackbone)
        return backbone

    return build_one


@pytest.fixture
def on_meta() -> Build:
    """on_meta(name): shapes only."""

    def build_one(name: Path | str) -> VlmoBackbone:
        plugin, spec = find_spec(f"vlmo:local-dir:{name}" if isinstance(name, Path) else name)
        backbone = plugin.build_without_weights(spec)
        assert isinstance(backbone, VlmoBackbone)
        return backbone

    return build_one


@pytest.fixture
def backbone(tiny_vlmo: Path, build: Build) -> VlmoBackbone:
    """A fresh tiny backbone of each kind."""
    return build(tiny_vlmo)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def captions() -> list[str]:
    return ["a dog", "two dogs in the snow and a child", "the cat runs", "a " * 40]
