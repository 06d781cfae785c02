from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mwactl.runtime.bundle import CaptionTokenizer
from mwactl_vlmo.names import VOCABULARY
from mwactl_vlmo.tokenizer import VlmoTokenizer

OFFICIAL = VlmoTokenizer(VOCABULARY)
captions_of_any_kind = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(["a dog", "[SEP]", "[PAD]", "[UNK]", "[CLS]", "##s", "狗", "🐶", "\x00", "é"])).map(
        " ".join
    ),
)


def by_data(tokenizer: VlmoTokenizer, length: int) -> CaptionTokenizer:
    """The runtime's tokenizer, from JSON as a bundle holds it."""
    text, file = tokenizer.portable(length)
    return CaptionTokenizer(json.loads(json.dumps(text)), file)


OFFICIAL_BY_DATA = by_data(OFFICIAL, 40)


@given(captions_of_any_kind)
@example("")
@example("a dog " * 50)
@example("a" * 101)
@settings(max_examples=300, deadline=None)
def test_any_caption_gives_the_same_ids_by_data(caption: str):
    found = OFFICIAL_BY_DATA.padded(OFFICIAL_BY_DATA([caption]))
    assert np.array_equal(found, OFFICIAL([caption], 40).numpy()), ascii(caption)


@pytest.mark.shared
def test_all_captions_of_flickr8k_give_the_same_ids(shared: Path):
    document = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text("utf-8"))
    captions = [sentence["raw"] for image in document["images"] for sentence in image["sentences"]]
    assert len(captions) == 40_000
    found = OFFICIAL_BY_DATA.padded(OFFICIAL_BY_DATA(captions))
    assert np.array_equal(found, OFFICIAL(captions, 40).numpy())
