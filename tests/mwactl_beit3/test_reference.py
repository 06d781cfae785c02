"""Side by side with the original code (torchscale 0.2.0) on random weights of many sizes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwactl.backbone.packing import pack
from mwactl_beit3.model import Beit3Retrieval
from mwactl_beit3.tokenizer import PADDING

pytestmark = pytest.mark.skipif(find_spec("torchscale") is None, reason="torchscale 0.2.0 is not installed")

MakeModel = Callable[..., Beit3Retrieval]

SIZES = {
    "tiny": {},
    "one-layer": {"layers": 1},
    "one-head": {"heads": 1},
    "many-heads": {"width": 64, "heads": 16, "hidden": 128},
    "deep": {"layers": 6, "width": 48, "heads": 3},
    "wide-ffn": {"hidden": 192},
    "one-patch": {"image_size": 16},
    "other-patch": {"image_size": 40, "patch": 8},
    "long-text": {"text_positions": 300},
}


@pytest.fixture(scope="module")
def original() -> Iterator[Callable[[Beit3Retrieval], nn.Module]]:
    """original(ours): the original encoder of the same sizes, with two plain heads, holding our values.

    Of fairscale and of a timm of 2021 it imports names that are used for other sizes only; they are stood in for.
    """
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, members in {
            "fairscale": (), "fairscale.nn": ("checkpoint_wrapper", "wrap"),
            "timm": (), "timm.models": (), "timm.models.layers": ("drop_path",),
        }.items():  # fmt: skip
            module = ModuleType(name)
            for member in members:
                setattr(module, member, None)
            patch.setitem(sys.modules, name, module)
        before = set(sys.modules)
        from torchscale.architecture.config import EncoderConfig
        from torchscale.model.BEiT3 import BEiT3

        yield lambda ours: _original(ours, EncoderConfig, BEiT3)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "torchscale":
                del sys.modules[name]


def _original(ours: Beit3Retrieval, config_class: Any, model_class: Any) -> nn.Module:
    sizes = ours.beit3.config
    options = config_class(
        encoder_embed_dim=sizes.width, encoder_layers=sizes.layers, encoder_attention_heads=sizes.heads,
        encoder_ffn_embed_dim=sizes.hidden, img_size=sizes.image_size, patch_size=sizes.patch,
        vocab_size=sizes.vocabulary, max_source_positions=sizes.text_positions, multiway=True, no_output_layer=True,
    )  # fmt: skip
    theirs = nn.Module()
    with torch.random.fork_rng(devices=[]):
        theirs.beit3 = model_class(options)
        theirs.language_head = nn.Linear(sizes.width, sizes.width, bias=False)
        theirs.vision_head = nn.Linear(sizes.width, sizes.width, bias=False)
    theirs.logit_scale = nn.Parameter(torch.zeros(()))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs.eval()


def batch(ours: Beit3Retrieval, count: int, longest: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures and captions of mixed lengths; the last caption has no padding."""
    generator = torch.Generator().manual_seed(seed)
    size = ours.beit3.config.image_size
    pixels = torch.randn(count, 3, size, size, generator=generator)
    tokens = torch.full((count, longest), PADDING)
    lengths = torch.randint(2, longest + 1, (count,), generator=generator)
    lengths[-1] = longest
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[:length] = torch.tensor([0, *torch.randint(2, 100, (length - 2,), generator=generator).tolist(), 2])
    return pixels, tokens


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@torch.inference_mode()
def test_features_and_embeddings_are_the_originals(
    original: Callable[[Beit3Retrieval], Any], random_model: MakeModel, sizes: dict[str, int]
) -> None:
    for seed, (count, longest) in enumerate(((1, 2), (4, 9), (6, 64))):
        ours = random_model(seed, **sizes)
        theirs = original(ours)
        pixels, tokens = batch(ours, count, longest, seed)
        padding, text = tokens == PADDING, pack(tokens, PADDING)
        length = 1 + ours.beit3.config.patches

        pictures = theirs.beit3(visual_tokens=pixels)["encoder_out"]
        close(ours.beit3.encode_pictures(pixels), pictures)
        close(ours.embed_pictures(pixels), theirs.vision_head(pictures[:, 0]))

        words = theirs.beit3(textual_tokens=tokens, text_padding_position=padding)["encoder_out"]
        close(ours.beit3.encode_text(text), packed(words, padding, text.order))
        close(ours.embed_text(text), theirs.language_head(words[:, 0]))

        both = theirs.beit3(textual_tokens=tokens, visual_tokens=pixels, text_padding_position=padding)["encoder_out"]
        fused = ours.beit3.encode_pairs(pixels, text)
        close(fused["image"], both[text.order, :length].flatten(0, 1))
        close(fused["text"], packed(both[:, length:], padding, text.order))


def packed(rows: Tensor, padding: Tensor, order: Tensor) -> Tensor:
    """[b, s, d] -> the real tokens, sequence by sequence in this order: [t, d]."""
    return torch.cat([rows[index][~padding[index]] for index in order.tolist()])


def test_parameter_names_are_the_originals(
    original: Callable[[Beit3Retrieval], nn.Module], random_model: MakeModel
) -> None:
    ours = random_model(layers=3)
    theirs = original(ours)
    shapes = {name: parameter.shape for name, parameter in theirs.named_parameters()}
    assert {name: parameter.shape for name, parameter in ours.named_parameters()} == shapes
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_gradients_are_the_originals(original: Callable[[Beit3Retrieval], Any], random_model: MakeModel) -> None:
    ours = random_model()
    theirs = original(ours)
    pixels, tokens = batch(ours, 5, 12, seed=7)
    (ours.embed_pictures(pixels) * ours.embed_text(pack(tokens, PADDING))).sum().backward()
    image = theirs.vision_head(theirs.beit3(visual_tokens=pixels)["encoder_out"][:, 0])
    words = theirs.beit3(textual_tokens=tokens, text_padding_position=tokens == PADDING)["encoder_out"]
    (image * theirs.language_head(words[:, 0])).sum().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        if parameter.grad is None:
            assert expected[name] is None or not expected[name].any(), name
        else:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=2e-5)
