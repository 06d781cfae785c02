"""Three tiny open_clip folders, one a kind of host block: open_clip's own, timm's ViT, Hugging Face's BERT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mwactl.backbone import WeightsRequest, find_spec
from mwactl_clip.backbone import ClipBackbone

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "ls_init_value": 0.5}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bilinear", "resize_mode": "squash"}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "two", "dog", "cat", "runs", "in", "snow"]
BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": len(WORDS), "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 16,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
}  # fmt: skip

Build = Callable[..., ClipBackbone]


def write_folder(folder: Path, model_cfg: dict[str, Any], preprocess: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    document = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS if preprocess is None else preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return folder


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Every parameter a little away from its initial value: no norm is trivial, no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("logit_scale"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def save_weights(folder: Path, seed: int = 0) -> Path:
    """Random values of this folder's own model, as its weights file."""
    plugin, spec = find_spec(f"clip:local-dir:{folder}")
    backbone = plugin.build(spec, WeightsRequest("random", seed=seed))
    assert isinstance(backbone, ClipBackbone)
    state = randomised(backbone.model, seed).state_dict()
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def native_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """open_clip's own towers, with layer scale in the image tower."""
    model_cfg = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    folder = write_folder(tmp_path_factory.mktemp("native"), model_cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomised(open_clip.CLIP(**model_cfg), 0)
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's own miniature ViT (6 blocks of width 64, any picture size) and a separate text tower."""
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
    folder = tmp_path_factory.mktemp("timm")
    write_folder(folder, {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True})
    return save_weights(folder)


@pytest.fixture(scope="session")
def write_hf_folder() -> Callable[..., Path]:
    """write_hf_folder(folder, **bert): a model whose text tower's configuration and vocabulary lie beside it."""

    def write(folder: Path, **bert: Any) -> Path:
        text = {
            "hf_model_name": ".", "hf_tokenizer_name": ".", "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear", "context_length": 16,
        }  # fmt: skip
        write_folder(folder, {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text})
        (folder / "config.json").write_text(json.dumps(BERT | bert))
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        tokenizer = {"tokenizer_class": "BertTokenizer", "model_max_length": 16}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        return folder

    return write


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory, write_hf_folder: Callable[..., Path]) -> Path:
    """A BERT text tower."""
    return save_weights(write_hf_folder(tmp_path_factory.mktemp("hf")))


@pytest.fixture(params=["native", "timm", "hf"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Each of the three folders in turn."""
    path: Path = request.getfixturevalue(f"{request.param}_folder")
    return path


@pytest.fixture
def build() -> Build:
    """build(folder or name, source=None, seed=0): a backbone with weights."""

    def build_one(name: Path | str, source: str | Path | None = None, *, seed: int = 0) -> ClipBackbone:
        plugin, spec = find_spec(f"clip:local-dir:{name}" if isinstance(name, Path) else name)
        backbone = plugin.build(spec, WeightsRequest(None if source is None else str(source), seed=seed))
        assert isinstance(backbone, ClipBackbone)
        return backbone

    return build_one


@pytest.fixture
def on_meta() -> Build:
    """on_meta(name): shapes only."""

    def build_one(name: str) -> ClipBackbone:
        plugin, spec = find_spec(name)
        backbone = plugin.build_without_weights(spec)
        assert isinstance(backbone, ClipBackbone)
        return backbone

    return build_one


@pytest.fixture
def backbone(folder: Path, build: Build) -> ClipBackbone:
    """A fresh backbone of each kind, with the weights of its folder."""
    return build(folder)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def captions() -> list[str]:
    return ["a dog", "two dogs in the snow on the grass .", "the cat runs", "a " * 40]
