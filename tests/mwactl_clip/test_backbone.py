"""An open_clip model behind the contract says what open_clip says."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from mwactl.adapter import inject, strip
from mwactl.backbone.contract import Augmentation
from mwactl.backbone.fingerprint import fingerprint
from mwactl.config.recipe import MethodConfig
from mwactl.errors import ExitCode, IncompatibleError, NotFoundError
from mwactl_clip.backbone import ClipBackbone

Build = Callable[..., ClipBackbone]


def changed_copy(folder: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The same weights under another configuration."""
    shutil.copytree(folder, target)
    file = target / "open_clip_config.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return target


@torch.inference_mode()
def test_text_embeddings_are_open_clips_own_though_padding_is_cut(backbone: ClipBackbone, captions: list[str]) -> None:
    for chosen in (captions, captions[:1], captions[2:3], captions[3:], captions[:3]):
        tokens = backbone.tokenize(chosen)
        assert tokens.shape == (len(chosen), 16)
        expected = backbone.model.encode_text(tokens)
        torch.testing.assert_close(backbone.encode_text(tokens), expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_image_embeddings_are_open_clips_own(backbone: ClipBackbone, pixels: Tensor) -> None:
    assert torch.equal(backbone.encode_image(pixels), backbone.model.encode_image(pixels))
    assert backbone.encode_image(pixels).shape == (2, backbone.embedding_width)
    assert backbone.image_size == (32, 32)


@pytest.mark.parametrize(("name", "end"), [("native", 49407), ("hf", 3)])
def test_trimming_cuts_exactly_after_the_longest_captions_end(
    request: pytest.FixtureRequest, build: Build, name: str, end: int
) -> None:
    backbone = build(request.getfixturevalue(f"{name}_folder"))
    tokens = backbone.tokenize(["a", "two dog runs in the snow", "the cat"])
    trimmed = backbone.trim_tokens(tokens)
    assert trimmed.shape == (3, 8)  # start, six words, end
    assert torch.equal(trimmed, tokens[:, :8])
    assert trimmed[1, -1] == end
    assert not tokens[:, 8:].any()
    full = backbone.tokenize(["the cat", "a " * 40])
    assert torch.equal(backbone.trim_tokens(full), full)


@torch.inference_mode()
def test_what_trimming_cuts_cannot_reach_a_causal_towers_embedding(native_folder: Path, build: Build) -> None:
    backbone = build(native_folder)
    tokens = backbone.tokenize(["a dog", "the cat runs in the snow"])
    kept = backbone.trim_tokens(tokens).shape[1]
    other = tokens.clone()
    other[:, kept:] = torch.randint(1, 40000, other[:, kept:].shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(backbone.model.encode_text(other), backbone.model.encode_text(tokens))
    torch.testing.assert_close(backbone.encode_text(other), backbone.encode_text(tokens))


@pytest.mark.parametrize("text_cfg", [{"no_causal_mask": True}, {"pool_type": "last"}])
@torch.inference_mode()
def test_a_tower_that_reads_its_padding_is_not_trimmed(
    native_folder: Path, tmp_path: Path, build: Build, captions: list[str], text_cfg: dict[str, Any]
) -> None:
    folder = changed_copy(
        native_folder, tmp_path / "padded", lambda document: document["model_cfg"]["text_cfg"].update(text_cfg)
    )
    backbone = build(folder)
    tokens = backbone.tokenize(captions[:1])
    assert torch.equal(backbone.trim_tokens(tokens), tokens)
    torch.testing.assert_close(backbone.encode_text(tokens), backbone.model.encode_text(tokens))


@pytest.mark.parametrize("resize_mode", ["squash", "shortest", "longest"])
def test_transform_and_tokens_are_open_clips_own(
    native_folder: Path, tmp_path: Path, build: Build, picture: Image.Image, captions: list[str], resize_mode: str
) -> None:
    folder = changed_copy(
        native_folder, tmp_path / "m", lambda document: document["preprocess_cfg"].update(resize_mode=resize_mode)
    )
    backbone = build(folder)
    name = f"local-dir:{folder}"
    _, training, evaluation = open_clip.create_model_and_transforms(name, aug_cfg={"scale": (0.3, 1.0)})
    assert torch.equal(backbone.image_transform()(picture), evaluation(picture))
    assert torch.equal(backbone.tokenize(captions), open_clip.get_tokenizer(name)(captions))
    crops = []
    for transform in (backbone.image_transform(Augmentation(crop_min_scale=0.3)), training):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            crops.append(transform(picture))
    assert torch.equal(*crops)
    assert crops[0].shape == (3, 32, 32)


def test_colour_augmentation_turns_some_pictures_grey_and_shifts_the_others(native_folder: Path, build: Build) -> None:
    backbone = build(native_folder)
    preprocess = backbone.architecture()["preprocess"]
    mean, std = torch.tensor(preprocess["mean"]), torch.tensor(preprocess["std"])
    red = Image.new("RGB", (32, 32), (200, 40, 40))
    transform = backbone.image_transform(Augmentation(crop_min_scale=1.0, colour=True))
    random.seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        seen = [transform(red)[:, 0, 0] for _ in range(100)]
    colours = [pixel * std + mean for pixel in seen]
    grey = [colour for colour in colours if colour.max() - colour.min() < 0.02]
    assert 8 <= len(grey) <= 35
    assert len({tuple(colour.tolist()) for colour in colours}) > 50


def test_hugging_face_tokens_are_open_clips_own(hf_folder: Path, build: Build, captions: list[str]) -> None:
    tokens = build(hf_folder).tokenize(captions)
    assert torch.equal(tokens, open_clip.get_tokenizer(f"local-dir:{hf_folder}")(captions))
    assert tokens[0].tolist() == [2, 5, 8, 3] + [0] * 12  # [CLS] a dog [SEP]


def test_preprocessing_entries_that_open_clip_ignores_are_ignored(
    native_folder: Path, tmp_path: Path, build: Build, picture: Image.Image
) -> None:
    folder = changed_copy(
        native_folder, tmp_path / "m", lambda document: document["preprocess_cfg"].update(tta=True, fill_color=None)
    )
    assert torch.equal(build(folder).image_transform()(picture), build(native_folder).image_transform()(picture))


def test_a_backbone_is_built_for_evaluation_in_fp32(backbone: ClipBackbone) -> None:
    assert not any(module.training for module in backbone.modules())
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert backbone.logit_scale is backbone.model.logit_scale
    assert backbone.logit_bias is None


def test_a_model_without_projections_has_no_heads(native_folder: Path, tmp_path: Path, build: Build) -> None:
    def no_heads(document: dict[str, Any]) -> None:
        document["model_cfg"] |= {"custom_text": True, "embed_dim": 64}
        document["model_cfg"]["vision_cfg"] = {
            "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "none", "image_size": 32}  # fmt: skip
        document["model_cfg"]["text_cfg"] |= {"width": 64, "proj_type": "none"}

    backbone = build(changed_copy(native_folder, tmp_path / "m", no_heads), "random")
    with pytest.raises(IncompatibleError, match="no projection heads") as raised:
        inject(backbone, MethodConfig(name="head"))
    assert raised.value.fix == "method.name=mwa or method.name=full"
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_fingerprint_is_the_weights_not_the_place(folder: Path, tmp_path: Path, build: Build) -> None:
    backbone = build(folder)
    own = fingerprint(backbone)
    assert own.startswith("sha256:")
    assert len(own) == 7 + 64
    assert fingerprint(build(changed_copy(folder, tmp_path / "elsewhere", lambda _: None))) == own
    pickled = tmp_path / "weights.pt"
    torch.save(backbone.model.state_dict(), pickled)
    assert fingerprint(build(folder, pickled)) == own
    wrapped = tmp_path / "epoch_3.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in backbone.model.state_dict().items()}}, wrapped)
    assert fingerprint(build(folder, wrapped)) == own


def test_fingerprint_survives_injection_and_stripping(
    backbone: ClipBackbone, train_a_little: Callable[..., None]
) -> None:
    before = fingerprint(backbone)
    model = inject(backbone, MethodConfig())
    train_a_little(model)
    assert fingerprint(backbone) == before
    assert fingerprint(strip(model)) == before  # type: ignore[arg-type]


def test_fingerprint_sees_one_bit(backbone: ClipBackbone) -> None:
    before = fingerprint(backbone)
    last = list(backbone.parameters())[-1]
    with torch.no_grad():
        last.view(-1).view(torch.int32)[-1] ^= 1
    assert fingerprint(backbone) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["model_cfg"].update(quick_gelu=True),
        lambda document: document["preprocess_cfg"].update(mean=[0.4, 0.5, 0.61]),
        lambda document: document["preprocess_cfg"].update(resize_mode="shortest"),
        lambda document: document["model_cfg"]["vision_cfg"].update(head_width=8),
    ],
)
def test_fingerprint_sees_what_no_tensor_holds(
    native_folder: Path, tmp_path: Path, build: Build, change: Callable[[dict[str, Any]], None]
) -> None:
    folder = changed_copy(native_folder, tmp_path / "changed", change)
    assert fingerprint(build(folder)) != fingerprint(build(native_folder))


def test_an_activation_left_unsaid_is_gelu_and_has_the_same_fingerprint(
    native_folder: Path, tmp_path: Path, build: Build
) -> None:
    said = changed_copy(
        native_folder, tmp_path / "said", lambda document: document["model_cfg"].update(quick_gelu=False)
    )
    assert fingerprint(build(said)) == fingerprint(build(native_folder))


@pytest.mark.parametrize("bert", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}, {"num_attention_heads": 4}])
def test_fingerprint_sees_the_text_towers_own_configuration(
    hf_folder: Path, tmp_path: Path, build: Build, write_hf_folder: Callable[..., Path], bert: dict[str, Any]
) -> None:
    folder = write_hf_folder(tmp_path / "other", **bert)
    other, backbone = build(folder, hf_folder / "open_clip_model.safetensors"), build(hf_folder)
    tokens = backbone.tokenize(["two dog runs"])
    with torch.inference_mode():
        assert not torch.equal(other.encode_text(tokens), backbone.encode_text(tokens))
    assert fingerprint(other) != fingerprint(backbone)


def test_a_model_without_weights_has_no_fingerprint(on_meta: Build) -> None:
    with pytest.raises(ValueError, match="clip-vit-b-32 was built without weights"):
        fingerprint(on_meta("clip-vit-b-32"))


@pytest.mark.usefixtures("no_network")
def test_a_tokenizer_that_is_not_cached_is_not_found_offline(
    on_meta: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    backbone = on_meta("siglip-vit-b-16")
    with pytest.raises(NotFoundError, match="the tokenizer of siglip-vit-b-16 is not on this machine") as raised:
        backbone.tokenize(["a dog"])
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert "--download" in (raised.value.fix or "")


def test_a_folder_without_its_vocabulary_has_no_tokenizer_rather_than_one_that_knows_no_word(
    hf_folder: Path, tmp_path: Path, build: Build
) -> None:
    folder = changed_copy(hf_folder, tmp_path / "copy", lambda _: None)
    (folder / "vocab.txt").unlink()
    with pytest.raises(NotFoundError, match="the tokenizer of .* is not on this machine") as raised:  # noqa: RUF043
        build(folder).tokenize(["a dog"])
    assert "vocab.txt" in (raised.value.why or "")


@pytest.mark.shared
def test_the_really_pretrained_encoder_is_unchanged_by_injection(shared: Path, build: Build) -> None:
    backbone = build(shared / "backbones" / "dinov2s-minilm")
    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    tokens = backbone.tokenize(["a dog runs in the snow", "two children"])
    with torch.inference_mode():
        image, text = backbone.encode_image(pixels), backbone.encode_text(tokens)
        model = inject(backbone, MethodConfig())
        assert model.trainable_count() == 2_699_136
        assert torch.equal(model.encode_image(pixels), image)
        assert torch.equal(model.encode_text(tokens), text)
        torch.testing.assert_close(text, backbone.model.encode_text(tokens), rtol=0, atol=1e-5)
