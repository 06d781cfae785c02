"""A tiny BEiT-3 and a tiny tokenizer, made here: nothing official is needed to test the plugin."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from sentencepiece import SentencePieceTrainer
from torch import Tensor

from mwactl.backbone import WeightsRequest, find_spec
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.model import Beit3Retrieval
from mwactl_beit3.sizes import Beit3Config

WORDS = [
    "a", "an", "the", "and", "of", "in", "on", "with", "two", "three", "dog", "dogs", "cat", "man", "woman", "child",
    "children", "plays", "runs", "jumps", "rides", "sits", "horse", "ball", "snow", "grass", "water", "street", "red",
    "green", "blue", "grey", "bright", "dark", "circle", "square", "stripe", "corner", "left", "right", "top", "bottom",
]  # fmt: skip
#: Small, but no two sizes are equal that could be mistaken for each other.
TINY = Beit3Config(width=32, layers=2, heads=4, hidden=48, image_size=48, vocabulary=100, text_positions=66)

Build = Callable[..., Beit3Backbone]


def randomised(model: Beit3Retrieval, seed: int) -> Beit3Retrieval:
    """Every parameter away from its initial value: no norm is trivial, no bias or special token is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                is_norm = parameter.dim() == 1 and name.endswith("weight")
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + is_norm)
    return model


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Beit3Retrieval]:
    """random_model(seed=0, **sizes): a BEiT-3 with seeded values, of the tiny sizes unless told otherwise."""
    torch.set_num_threads(1)  # matrices this small are slower on more

    def make(seed: int = 0, **sizes: int) -> Beit3Retrieval:
        with torch.random.fork_rng(devices=[]):
            return randomised(Beit3Retrieval(Beit3Config(**asdict(TINY) | sizes)), seed).eval()

    return make


@pytest.fixture(scope="session")
def tiny_spm() -> bytes:
    """A SentencePiece model of a few words, with the control symbols that the official one has."""
    choice = random.Random(0)
    sentences = (" ".join(choice.choices(WORDS, k=8)) for _ in range(300))
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, model_type="unigram", vocab_size=90, hard_vocab_limit=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture(scope="session")
def write_beit3(tiny_spm: bytes) -> Callable[..., Path]:
    """write_beit3(folder, state, **sizes): a folder for `beit3:local-dir:`, without weights where `state` is None."""

    def write(folder: Path, state: dict[str, Tensor] | None, **sizes: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(TINY) | sizes))
        (folder / "beit3.spm").write_bytes(tiny_spm)
        if state is not None:
            safetensors.torch.save_file(state, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_beit3(
    tmp_path_factory: pytest.TempPathFactory,
    write_beit3: Callable[..., Path],
    random_model: Callable[..., Beit3Retrieval],
) -> Path:
    """The folder of a tiny BEiT-3 with random weights: name it `beit3:local-dir:FOLDER`."""
    return write_beit3(tmp_path_factory.mktemp("tiny-beit3"), random_model().state_dict())


@pytest.fixture
def build() -> Build:
    """build(folder or name, source=None, seed=0): a backbone with weights."""

    def build_one(name: Path | str, source: str | Path | None = None, *, seed: int = 0) -> Beit3Backbone:
        plugin, spec = find_spec(f"beit3:local-dir:{name}" if isinstance(name, Path) else name)
        backbone = plugin.build(spec, WeightsRequest(None if source is None else str(source), seed=seed))
        assert isinstance(backbone, Beit3Backbone)
        return backbone

    return build_one


@pytest.fixture
def on_meta() -> Build:
    """on_meta(name): shapes only."""

    def build_one(name: str) -> Beit3Backbone:
        plugin, spec = find_spec(name)
        backbone = plugin.build_without_weights(spec)
        assert isinstance(backbone, Beit3Backbone)
        return backbone

    return build_one


@pytest.fixture
def backbone(tiny_beit3: Path, build: Build) -> Beit3Backbone:
    """A fresh tiny backbone."""
    return build(tiny_beit3)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, TINY.image_size, TINY.image_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def captions() -> list[str]:
    return ["a dog", "two dogs in the snow and a child on the grass", "the cat runs", "a " * 80]
