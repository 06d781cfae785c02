"""VLMo behind the contract."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, inject
from mwactl.backbone.fingerprint import fingerprint
from mwactl.config.recipe import MethodConfig
from mwactl_vlmo.backbone import VlmoBackbone
from mwactl_vlmo.model import Vlmo

Build = Callable[..., VlmoBackbone]
Embed = Callable[[VlmoBackbone | AdaptedModel], tuple[Tensor, Tensor]]


@torch.inference_mode()
def test_embeddings_are_the_models_first_tokens_through_its_projections(backbone: VlmoBackbone, pixels: Tensor) -> None:
    features = backbone.model.encode_pictures(pixels)[:, 0]
    expected = features @ backbone.model.itc_image_proj.fc.weight.T
    torch.testing.assert_close(backbone.encode_image(pixels), expected, rtol=1e-5, atol=1e-5)
    assert backbone.encode_image(pixels).shape == (3, backbone.embedding_width)


@torch.inference_mode()
def test_every_linear_map_of_retrieval_is_called_as_a_module(backbone: VlmoBackbone, embed: Embed) -> None:
    called: set[str] = set()
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.add(name))  # type: ignore[misc]
    embed(backbone)
    linear = {name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    unused = {name for name in linear if ".mlp_vl." in name or ".pooler." in name}
    assert len(unused) == 3
    assert called == linear - unused


@torch.inference_mode()
def test_a_map_in_the_place_of_the_attentions_is_what_attention_computes_with(
    backbone: VlmoBackbone, embed: Embed
) -> None:
    before = embed(backbone)
    attention = backbone.model.transformer.blocks[0].attn
    attention.qkv = nn.Sequential(attention.qkv, nn.Linear(96, 96))
    for changed, unchanged in zip(embed(backbone), before, strict=True):
        assert not torch.allclose(changed, unchanged, atol=1e-3)


def test_heads_are_the_two_projections(backbone: VlmoBackbone) -> None:
    trained = inject(backbone, MethodConfig(name="head")).trainable()
    assert set(trained) == {
        "backbone.model.itc_image_proj.fc.weight", "backbone.model.itc_text_proj.fc.weight",
        "backbone.model.logit_scale",
    }  # fmt: skip


def test_a_picture_is_resized_to_the_square_and_not_cropped(backbone: VlmoBackbone, picture: Image.Image) -> None:
    seen = backbone.image_transform()(picture)
    small = picture.resize((64, 64), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(64, 64, 3).permute(2, 0, 1)
    torch.testing.assert_close(seen, pixels / 127.5 - 1)


def test_fingerprint_is_the_weights_not_the_place(tiny_vlmo: Path, tmp_path: Path, build: Build) -> None:
    own = fingerprint(build(tiny_vlmo))
    assert fingerprint(build(Path(shutil.copytree(tiny_vlmo, tmp_path / "elsewhere")))) == own


def test_fingerprint_sees_heads_that_no_tensor_shows(
    tmp_path: Path, build: Build, write_vlmo: Callable[..., Path], random_model: Callable[..., Vlmo]
) -> None:
    state = random_model("absolute").state_dict()
    four, two = (build(write_vlmo(tmp_path / str(heads), state, "absolute", heads=heads)) for heads in (4, 2))
    assert fingerprint(four) != fingerprint(two)


def test_fingerprint_sees_another_vocabulary(tiny_vlmo: Path, build: Build) -> None:
    before = fingerprint(build(tiny_vlmo))
    file = tiny_vlmo / "vocab.txt"
    file.write_text(file.read_text().replace("dog\n", "fox\n", 1))
    assert fingerprint(build(tiny_vlmo)) != before


def test_architecture_says_what_no_tensor_does(on_meta: Build) -> None:
    facts = on_meta("vlmo-base-plus-384").architecture()
    assert (facts["family"], facts["heads"], facts["image_size"], facts["text_length"]) == ("vlmo", 16, 384, 40)
    assert (facts["eps"], facts["text_eps"], facts["activation"]) == (1e-6, 1e-12, "gelu")
    assert facts["preprocess"] == {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": "square, bicubic"}
    assert facts["tokenizer"].startswith("07eced37")


@pytest.mark.parametrize("name", ["vlmo-base-384", "vlmo-base-plus"])
def test_without_weights_there_are_shapes_and_tokens_but_no_memory(on_meta: Build, name: str) -> None:
    backbone = on_meta(name)
    assert all(parameter.is_meta for parameter in backbone.parameters())
    size = backbone.image_size[0]
    assert backbone.encode_image(torch.empty(2, 3, size, size, device="meta")).shape == (2, backbone.embedding_width)
    tokens = backbone.tokenize(["a dog", "two dogs"])
    assert tokens.shape == (2, 40)
    assert backbone.encode_text(tokens.to("meta")).shape == (2, backbone.embedding_width)


def test_a_copy_moves_with_its_index(backbone: VlmoBackbone, pixels: Tensor) -> None:
    moved = backbone.to(torch.float64)
    assert moved.encode_image(pixels.double()).dtype == torch.float64
