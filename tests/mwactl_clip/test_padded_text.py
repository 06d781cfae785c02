"""Text with its padding, as graphs compute it, is the text that everything else computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mwactl.adapter import AdaptedModel, inject
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl_clip.backbone import ClipBackbone


@pytest.fixture
def adapted(backbone: ClipBackbone, train_a_little: Callable[[AdaptedModel], None]) -> AdaptedModel:
    """With modules that do something."""
    model = inject(backbone, MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8)))
    train_a_little(model)
    return model


@torch.inference_mode()
def test_with_all_its_padding_the_text_is_the_same(adapted: AdaptedModel, captions: list[str]) -> None:
    tokens = adapted.backbone.tokenize(captions)
    torch.testing.assert_close(adapted.encode_padded_text(tokens), adapted.encode_text(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["native", "hf"])
@torch.inference_mode()
def test_towers_that_ignore_padding_give_the_same_at_every_length(
    kind: str,
    captions: list[str],
    train_a_little: Callable[[AdaptedModel], None],
    build: Callable[..., ClipBackbone],
    request: pytest.FixtureRequest,
) -> None:
    folder: Path = request.getfixturevalue(f"{kind}_folder")
    model = inject(build(folder), MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=8)))
    train_a_little(model)
    assert model.backbone.portable().text["trim"]
    tokens = model.backbone.tokenize(captions)
    for caption, row, alone in zip(captions, tokens, model.encode_text(tokens), strict=True):
        used = int((row != 0).nonzero().max()) + 1
        for length in range(used, tokens.shape[1] + 1):
            found = model.encode_padded_text(row[None, :length])
            torch.testing.assert_close(found[0], alone, rtol=0, atol=1e-5, msg=f"{caption} at {length}")


@torch.inference_mode()
def test_what_follows_the_end_of_a_caption_does_not_matter(
    native_folder: Path, build: Callable[..., ClipBackbone]
) -> None:
    backbone = build(native_folder)
    tokens = backbone.tokenize(["a dog", "two cats"])
    changed = tokens.clone()
    changed[:, 6:] = torch.randint(1, 40000, changed[:, 6:].shape, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(changed, tokens)
    torch.testing.assert_close(
        backbone.encode_padded_text(changed), backbone.encode_padded_text(tokens), rtol=0, atol=1e-6
    )
