"""Text with its padding, as graphs compute it, is the text that everything else computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mwactl.adapter import AdaptedModel, inject
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.tokenizer import PADDING


@pytest.fixture
def adapted(backbone: Beit3Backbone, train_a_little: Callable[[AdaptedModel], None]) -> AdaptedModel:
    """With modules that do something."""
    model = inject(backbone, MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8)))
    train_a_little(model)
    return model


@torch.inference_mode()
def test_padding_changes_no_embedding(adapted: AdaptedModel, captions: list[str]) -> None:
    tokens = adapted.backbone.tokenize(captions)
    expected = adapted.encode_text(tokens)
    torch.testing.assert_close(adapted.encode_padded_text(tokens), expected, rtol=0, atol=1e-5)
    for caption, row, alone in zip(captions, tokens, expected, strict=True):
        used = int((row != PADDING).sum())
        for length in range(used, tokens.shape[1] + 1):
            found = adapted.encode_padded_text(row[None, :length])
            torch.testing.assert_close(found[0], alone, rtol=0, atol=1e-5, msg=f"{caption} at {length}")


@torch.inference_mode()
def test_shapes_do_not_follow_from_the_ids(backbone: Beit3Backbone) -> None:
    """What a tracer sees: ids without values give the shapes."""
    tokens = torch.full((3, 7), PADDING)
    assert backbone.encode_padded_text(tokens).shape == (3, backbone.embedding_width)
