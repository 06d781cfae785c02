from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from mwactl.backbone.portable import Portable
from mwactl.errors import IncompatibleError
from mwactl.runtime.bundle import CaptionTokenizer, PictureTransform
from mwactl_clip.backbone import ClipBackbone
from mwactl_clip.portable import portable

Build = Callable[..., ClipBackbone]

#: What captions from anywhere hold: entities, mojibake, special tokens, signs of many kinds, and CLIP's own endings.
PIECES = [
    "a dog", "DOG'S", "'ll", "'ſ", "’s", "ſtart", "<start_of_text>", "<end_of_text>", "<END_OF_TEXT>", "<|endoftext|>",
    "&amp;", "&amp;lt;p&amp;gt;", "&#128512;", "Ã©tÃ©", "schÃ¶n", "â€œquotedâ€\x9d", "naïve", "e\u0301", "ﬁne",
    "İstanbul", "狗在雪地里", "собака", "कुत्ता", "🐶", "\U0001f469\u200d\U0001f467", "\u200b", "\ufeff", "\x00", "\x1f",
    "\x85", "\u2028", "\u3000", "\t\n", "_", "__a_", "!!!", "...", "½", "Ⅷ", "12345", "٣", "[SEP]", "[PAD]", "[CLS]",
    "##s", "</w>", "\ue000", "\U0001f9ff", "\U00031350",
]  # fmt: skip
captions_of_any_kind = st.one_of(
    st.text(max_size=60),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=30).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=90).map(" ".join),
)


def ids_by_data(data: Portable, captions: Sequence[str]) -> np.ndarray:
    """What the runtime makes of them, at full length, from JSON as a bundle holds it."""
    text = json.loads(json.dumps(dict(data.text)))
    tokenizer = CaptionTokenizer(text, data.files[text["file"]])
    return tokenizer.padded(tokenizer(captions))


def simple(**options: Any) -> tuple[SimpleTokenizer, CaptionTokenizer]:
    tokenizer = SimpleTokenizer(**options)
    data = portable("a", PreprocessCfg(), tokenizer, ignored_padding=None)
    return tokenizer, CaptionTokenizer(data.text, data.files["merges.txt"])


OPENAI, OPENAI_BY_DATA = simple()
CASED, CASED_BY_DATA = simple(clean="whitespace", context_length=20, additional_special_tokens=["<mark>"])


@given(captions_of_any_kind)
@example("")
@example("<end_of_text> a dog<start_of_text>")
@example("dog " * 100)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_clips_own_tokenizer_gives_the_same_ids_by_data(caption: str):
    for tokenizer, by_data in ((OPENAI, OPENAI_BY_DATA), (CASED, CASED_BY_DATA)):
        assert np.array_equal(by_data([caption]), tokenizer([caption]).numpy()), ascii(caption)


def test_every_character_gives_the_same_ids_by_data():
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    random.Random(0).shuffle(characters)
    captions = [" ".join(characters[start : start + 20]) for start in range(0, 40_000, 20)]
    assert np.array_equal(OPENAI_BY_DATA(captions), OPENAI(captions).numpy())


@pytest.fixture
def hf_backbone(hf_folder: Path, build: Build) -> ClipBackbone:
    return build(hf_folder)


HF_CAPTIONS = [
    "a dog", "", "The CAT runs in the snow", "two dogs " * 30, "[SEP] a [PAD] dog [CLS]", "é &amp; ü 🐶 狗",
    "\x00 \u200b a",
]  # fmt: skip


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
@pytest.mark.parametrize("strip_end", [False, True])
def test_a_hugging_face_tokenizer_gives_the_same_ids_by_data(hf_folder: Path, clean: str, strip_end: bool):
    tokenizer = HFTokenizer(str(hf_folder), context_length=9, clean=clean, strip_sep_token=strip_end)
    data = portable("a", PreprocessCfg(), tokenizer, ignored_padding=None)
    expected = tokenizer(HF_CAPTIONS).numpy()
    assert (expected[1] == 3).any() != strip_end
    assert np.array_equal(ids_by_data(data, HF_CAPTIONS), expected)


def test_padding_on_the_left_is_data_too(hf_folder: Path):
    tokenizer = HFTokenizer(str(hf_folder), context_length=9, padding_side="left", truncation_side="left")
    data = portable("a", PreprocessCfg(), tokenizer, ignored_padding=0)
    assert not data.text["trim"]
    assert np.array_equal(ids_by_data(data, HF_CAPTIONS), tokenizer(HF_CAPTIONS).numpy())


def test_what_a_tokenizer_was_last_used_for_does_not_matter(hf_folder: Path):
    tokenizer = HFTokenizer(str(hf_folder), context_length=9)
    before = portable("a", PreprocessCfg(), tokenizer, ignored_padding=0)
    tokenizer.tokenizer(["a dog"], max_length=4, truncation=True)
    assert portable("a", PreprocessCfg(), tokenizer, ignored_padding=0).digest == before.digest


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(captions_of_any_kind)
def test_any_caption_gives_a_hugging_face_model_the_same_ids(hf_pair: tuple[Any, CaptionTokenizer], caption: str):
    tokenizer, by_data = hf_pair
    assert np.array_equal(by_data.padded(by_data([caption])), tokenizer([caption]).numpy()), ascii(caption)


@pytest.fixture(scope="session")
def hf_pair(hf_folder: Path) -> tuple[HFTokenizer, CaptionTokenizer]:
    tokenizer = HFTokenizer(str(hf_folder), context_length=16)
    data = portable("a", PreprocessCfg(), tokenizer, ignored_padding=0)
    return tokenizer, CaptionTokenizer(data.text, data.files["tokenizer.json"])


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (lambda folder: SimpleTokenizer(reduction_mask="random"), "at random"),
        (lambda folder: HFTokenizer(str(folder), tokenizer_mode="clips"), "after the padding"),
        (lambda folder: HFTokenizer(str(folder), split_special_tokens=True), "splits special tokens"),
        (lambda folder: open_clip.tokenizer.decode, "it is a function"),
    ],
)
def test_a_tokenizer_that_is_no_data_is_refused_with_the_reason(
    hf_folder: Path, tokenizer: Callable[[Path], Any], why: str
):
    with pytest.raises(IncompatibleError, match=why):
        portable("a", PreprocessCfg(), tokenizer(hf_folder), ignored_padding=0)


def test_a_cleaning_or_a_vocabulary_of_its_own_is_refused():
    tokenizer = SimpleTokenizer()
    tokenizer.clean_fn = str.upper
    with pytest.raises(IncompatibleError, match="cleans captions"):
        portable("a", PreprocessCfg(), tokenizer, ignored_padding=0)
    tokenizer = SimpleTokenizer()
    tokenizer.encoder["dog</w>"] = 7
    with pytest.raises(IncompatibleError, match="vocabulary"):
        portable("a", PreprocessCfg(), tokenizer, ignored_padding=0)


def test_each_kind_of_backbone_is_portable(backbone: ClipBackbone, captions: list[str]):
    data = backbone.portable()
    assert np.array_equal(ids_by_data(data, captions), backbone.tokenize(captions).numpy())
    assert data.digest == backbone.portable().digest
    assert (data.image["size"], data.image["resize"]) == ([32, 32], "squash")


def test_only_padding_that_the_tower_ignores_is_cut(backbone: ClipBackbone):
    tokens = backbone.tokenize(["a dog", "the cat runs"])
    data = backbone.portable()
    tokenizer = CaptionTokenizer(data.text, data.files[data.text["file"]])
    cut = torch.from_numpy(tokenizer(["a dog", "the cat runs"]))
    assert (cut.shape[1] < tokens.shape[1]) == data.text["trim"]
    assert torch.equal(cut, backbone.trim_tokens(tokens))
    with torch.inference_mode():
        assert torch.allclose(backbone.encode_padded_text(cut), backbone.encode_padded_text(tokens), atol=1e-5)


def test_a_tower_without_a_causal_mask_gets_its_padding(tmp_path: Path, build: Build):
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert build(tmp_path, "random").portable().text["trim"] is False


SIZES = [(1, 1), (2, 700), (700, 2), (31, 32), (32, 32), (33, 47), (90, 50), (48, 24), (25, 48), (333, 500)]
MODES = ["shortest", "longest", "squash"]
TRANSFORMS = [
    PreprocessCfg(size, resize_mode=mode, interpolation=interpolation, fill_color=90, mean=(0.48, 0.4, 0.1), std=0.3)
    for size, mode, interpolation in itertools.product(
        [32, (32, 32), (24, 48), (48, 25)], MODES, ["bicubic", "bilinear", "random"]
    )
]


@pytest.mark.parametrize("config", TRANSFORMS, ids=lambda c: f"{c.size}-{c.resize_mode}-{c.interpolation}")
def test_pixels_by_data_are_those_of_open_clip_to_the_bit(config: PreprocessCfg):
    data = portable("a", config, OPENAI, ignored_padding=0)
    by_data, transform = (
        PictureTransform(json.loads(json.dumps(data.image))),
        image_transform_v2(config, is_train=False),
    )
    noise = np.random.default_rng(0)
    for height, width in SIZES:
        picture = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        try:
            expected = transform(picture).numpy()
        except ValueError:  # nothing would be left of the shorter side
            with pytest.raises(ValueError, match="too unequal"):
                by_data(picture)
        else:
            assert np.array_equal(by_data(picture), expected), (height, width)


def test_every_level_of_every_channel_is_normalised_to_the_bit():
    config = PreprocessCfg(size=(16, 16), resize_mode="squash")
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.stack([levels, levels[::-1], levels.T], axis=-1))
    for mean, std in [(config.mean, config.std), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3,) * 2]:
        config = replace(config, mean=mean, std=std)
        by_data = PictureTransform(portable("a", config, OPENAI, ignored_padding=0).image)
        assert np.array_equal(by_data(picture), image_transform_v2(config, is_train=False)(picture).numpy())


@pytest.mark.shared
def test_captions_of_flickr8k_give_the_same_ids(shared: Path, build: Build):
    document = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text("utf-8"))
    captions = [sentence["raw"] for image in document["images"] for sentence in image["sentences"]]
    assert len(captions) == 40_000
    captions = captions[::5]  # one a picture
    for name in ("clip-tiny-emoji", shared / "backbones/dinov2s-minilm"):
        backbone = build(name)
        assert np.array_equal(ids_by_data(backbone.portable(), captions), backbone.tokenize(captions).numpy())
