from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mwactl.errors import NotFoundError
from mwactl.runtime.bundle import CaptionTokenizer, PictureTransform
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.tokenizer import Beit3Tokenizer

Build = Callable[..., Beit3Backbone]
captions_of_any_kind = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(["a dog", "<s>", "</s>", "<unk>", "▁", "狗", "🐶", "\x00", "\u200b", "ﬁ", "  "])).map(
        " ".join
    ),
)


def by_data(backbone: Beit3Backbone) -> CaptionTokenizer:
    """The runtime's tokenizer, from JSON as a bundle holds it."""
    data = backbone.portable()
    text = json.loads(json.dumps(dict(data.text)))
    return CaptionTokenizer(text, data.files[text["file"]])


@pytest.fixture(scope="session")
def pair(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Beit3Tokenizer, CaptionTokenizer]:
    file = tmp_path_factory.mktemp("spm") / "beit3.spm"
    file.write_bytes(tiny_spm)
    tokenizer = Beit3Tokenizer(file)
    return tokenizer, CaptionTokenizer(tokenizer.portable(12), tokenizer.model)


@given(captions_of_any_kind)
@example("")
@example("two dogs run " * 50)
@settings(max_examples=200, deadline=None)
def test_any_caption_gives_the_same_ids_by_data(pair: tuple[Beit3Tokenizer, CaptionTokenizer], caption: str):
    tokenizer, data = pair
    assert np.array_equal(data.padded(data([caption])), tokenizer([caption], 12).numpy()), ascii(caption)


@pytest.mark.parametrize("size", [(50, 90), (1, 1), (10, 3000), (48, 48)])
def test_pixels_by_data_are_the_transforms_to_the_bit(backbone: Beit3Backbone, size: tuple[int, int]):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    facts: dict[str, Any] = json.loads(json.dumps(dict(backbone.portable().image)))
    found = PictureTransform(facts)(Image.fromarray(noise))
    assert np.array_equal(found, backbone.image_transform()(Image.fromarray(noise)).numpy())


def test_without_its_tokenizer_nothing_is_portable(on_meta: Build):
    with pytest.raises(NotFoundError, match="not on this machine"):
        on_meta("beit3-base").portable()


@pytest.mark.shared
def test_all_captions_of_flickr8k_give_the_same_ids(shared: Path):
    document = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text("utf-8"))
    captions = [sentence["raw"] for image in document["images"] for sentence in image["sentences"]]
    assert len(captions) == 40_000
    tokenizer = Beit3Tokenizer(shared / "data/tokenizers/beit3.spm")
    data = CaptionTokenizer(tokenizer.portable(64), tokenizer.model)
    assert np.array_equal(data.padded(data(captions)), tokenizer(captions, 64).numpy())
