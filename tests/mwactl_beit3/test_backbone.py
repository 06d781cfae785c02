"""A BEiT-3 behind the contract: the facts it states, its transforms, its tokens, its fingerprint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, inject, strip
from mwactl.backbone.fingerprint import fingerprint
from mwactl.config.recipe import MethodConfig
from mwactl.errors import VerificationError
from mwactl.files import sha256_bytes
from mwactl.train.memory import estimate_memory
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.tokenizer import BEGIN, END, PADDING, Beit3Tokenizer

Build = Callable[..., Beit3Backbone]
Embed = Callable[[Beit3Backbone | AdaptedModel], tuple[Tensor, Tensor]]


# -- facts -------------------------------------------------------------------------------------------------------------


def test_the_contracts_facts_are_those_of_the_sizes(backbone: Beit3Backbone) -> None:
    assert backbone.image_size == (48, 48)
    assert backbone.context_length == 64
    assert backbone.embedding_width == 32
    assert backbone.logit_scale is backbone.model.logit_scale
    assert backbone.logit_bias is None
    assert backbone.count_parameters() == sum(tensor.numel() for tensor in backbone.state_dict().values())


def test_the_methods_train_the_projections_and_the_temperature(tiny_beit3: Path, build: Build) -> None:
    heads = {"backbone.model.vision_head.weight", "backbone.model.language_head.weight"}
    scale = {"backbone.model.logit_scale"}
    assert set(inject(build(tiny_beit3), MethodConfig(name="head")).trainable()) == heads | scale
    mwa = inject(build(tiny_beit3), MethodConfig(train_head=True)).trainable()
    assert {name for name in mwa if not name.startswith("adapter.")} == heads
    full = inject(build(tiny_beit3), MethodConfig(name="full")).trainable()
    assert set(full) == {f"backbone.{name}" for name in build(tiny_beit3).state_dict()}


def test_the_architecture_says_what_no_tensor_holds(backbone: Beit3Backbone, tiny_spm: bytes) -> None:
    assert json.loads(json.dumps(backbone.architecture())) == {
        "family": "beit3", "width": 32, "layers": 2, "heads": 4, "hidden": 48, "image_size": 48, "vocabulary": 100,
        "text_positions": 66, "patch": 16, "eps": 1e-5, "activation": "gelu",
        "preprocess": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize": "square, bicubic"},
        "context_length": 64, "tokenizer": sha256_bytes(tiny_spm),
    }  # fmt: skip


# -- pictures and captions ---------------------------------------------------------------------------------------------


def test_pictures_are_squashed_bicubic_to_between_minus_one_and_one(
    backbone: Beit3Backbone, picture: Image.Image
) -> None:
    squashed = np.asarray(picture.resize((48, 48), Image.Resampling.BICUBIC), dtype=np.float32)
    expected = torch.from_numpy(squashed / 255).permute(2, 0, 1) * 2 - 1
    torch.testing.assert_close(backbone.image_transform()(picture), expected, rtol=0, atol=1e-6)


def test_captions_are_64_ids(backbone: Beit3Backbone, tiny_beit3: Path, captions: list[str]) -> None:
    tokens = backbone.tokenize(captions)
    assert torch.equal(tokens, Beit3Tokenizer(tiny_beit3 / "beit3.spm")(captions, 64))
    assert tokens.shape == (len(captions), 64)
    assert tokens[:, 0].tolist() == [BEGIN] * len(captions)
    assert tokens[0].tolist().count(PADDING) == 64 - 4  # begin, two words, end
    assert tokens[-1, -1] == END  # 80 words


@torch.inference_mode()
def test_padding_changes_no_bit(backbone: Beit3Backbone) -> None:
    tokens = backbone.tokenize(["a", "two dogs in the snow", "the cat"])
    assert (tokens[:, 7:] == PADDING).all()  # begin, five words, end
    assert torch.equal(backbone.encode_text(tokens[:, :7]), backbone.encode_text(tokens))


@torch.inference_mode()
def test_every_linear_map_is_called_as_a_module(backbone: Beit3Backbone, embed: Embed) -> None:
    called: set[str] = set()
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.add(name))  # type: ignore[misc]
    embed(backbone)
    assert called == {name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}


def test_a_damaged_tokenizer_is_a_check_that_failed(build: Build, tiny_beit3: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_beit3, tmp_path / "model"))
    (folder / "beit3.spm").write_bytes(b"no pieces in here")
    with pytest.raises(VerificationError, match="not a SentencePiece model"):
        build(folder).tokenize(["a dog"])


# -- fingerprint -------------------------------------------------------------------------------------------------------


def test_fingerprint_is_the_model_and_not_its_place(tiny_beit3: Path, build: Build, tmp_path: Path) -> None:
    own = fingerprint(build(tiny_beit3))
    assert own.startswith("sha256:")
    assert fingerprint(build(Path(shutil.copytree(tiny_beit3, tmp_path / "elsewhere")))) == own


def test_fingerprint_survives_injection_and_stripping(
    backbone: Beit3Backbone, train_a_little: Callable[[AdaptedModel], None]
) -> None:
    before = fingerprint(backbone)
    model = inject(backbone, MethodConfig())
    train_a_little(model)
    assert fingerprint(backbone) == before
    assert fingerprint(strip(model)) == before


def test_fingerprint_sees_one_bit(backbone: Beit3Backbone) -> None:
    before = fingerprint(backbone)
    with torch.no_grad():
        backbone.model.beit3.vision_embed.mask_token.view(-1).view(torch.int32)[-1] ^= 1
    assert fingerprint(backbone) != before


def other_heads(folder: Path) -> None:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"heads": 2}))


def other_pieces(folder: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    pieces = sentencepiece_model_pb2.ModelProto()
    pieces.ParseFromString((folder / "beit3.spm").read_bytes())
    pieces.pieces[5].score -= 1
    (folder / "beit3.spm").write_bytes(pieces.SerializeToString())


@pytest.mark.parametrize("change", [other_heads, other_pieces])
def test_fingerprint_sees_what_no_tensor_holds(
    tiny_beit3: Path, build: Build, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(tiny_beit3, tmp_path / "changed"))
    change(folder)
    other, own = build(folder), build(tiny_beit3)
    assert all(map(torch.equal, other.state_dict().values(), own.state_dict().values()))
    assert fingerprint(other) != fingerprint(own)


def test_predicted_activations_are_those_that_a_step_keeps(on_meta: Build, tiny_beit3: Path, build: Build) -> None:
    """Counted on the meta device; no attention scores are among them, which no fused kernel keeps."""
    predicted = estimate_memory(inject(on_meta(f"beit3:local-dir:{tiny_beit3}"), MethodConfig()))
    model = inject(build(tiny_beit3), MethodConfig()).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.full((8, 64), 5)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = model.encode_image(torch.randn(8, 3, 48, 48)), model.encode_text(tokens)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert len(outputs) == 2
    assert predicted.activations_per_batch + 8 * predicted.activations_per_pair == pytest.approx(real, rel=0.1)
