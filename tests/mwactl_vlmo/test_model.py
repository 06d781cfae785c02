"""The model computes each sequence by itself, and no more of it than is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mwactl.backbone.contract import unit_rows
from mwactl.backbone.packing import pack
from mwactl_vlmo import names
from mwactl_vlmo.model import Vlmo, initial_value
from mwactl_vlmo.sizes import VlmoConfig

RandomModel = Callable[..., Vlmo]
KEYS = Path(__file__).parent / "keys"


def tokens_of(*lengths: int, padded: int = 12) -> Tensor:
    """Random captions of these lengths between their special tokens."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.zeros(len(lengths), padded, dtype=torch.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(4, 60, (length,), generator=generator)
        row[0], row[length - 1] = 2, 3
    return tokens


def meta(config: VlmoConfig, *, pretraining: bool) -> Vlmo:
    with torch.device("meta"):
        return Vlmo(config, pretraining=pretraining)


@pytest.mark.parametrize(
    ("name", "pretraining", "keys", "parameters"),
    [
        ("base", True, 293, 202_445_470),
        ("base-plus", True, 503, 184_980_734),
        ("large", True, 551, 599_127_102),
        ("base-384", False, 282, 177_413_857),
        ("base-plus-384", False, 492, 167_662_433),
        ("large-384", False, 540, 565_259_521),
    ],
)
def test_names_shapes_and_totals_are_the_official_ones(
    name: str, pretraining: bool, keys: int, parameters: int
) -> None:
    model = meta(names.SIZES[f"vlmo-{name}"], pretraining=pretraining)
    size = name.removesuffix("-384").replace("-", "_")
    official = json.loads((KEYS / f"{size}{'' if pretraining else '_retrieval_384'}_keys.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == official
    assert len(official) == keys
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.inference_mode()
def test_a_captions_embedding_depends_on_nothing_but_the_caption(kind: str, random_model: RandomModel) -> None:
    model = random_model(kind)
    tokens = tokens_of(7, 3, 12, 7, 2, 5)
    together = model.embed_text(pack(tokens, 0))
    for index, length in enumerate([7, 3, 12, 7, 2, 5]):
        alone = model.embed_text(pack(tokens[index : index + 1, :length], 0))
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=5e-6)
    shuffled = model.embed_text(pack(tokens.flip(0), 0)).flip(0)
    torch.testing.assert_close(shuffled, together, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_pictures_embedding_does_not_depend_on_its_neighbours(
    kind: str, random_model: RandomModel, pixels: Tensor
) -> None:
    model = random_model(kind)
    alone = torch.cat([model.embed_pictures(picture[None]) for picture in pixels])
    torch.testing.assert_close(model.embed_pictures(pixels), alone, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_pair_is_computed_by_itself_and_given_back_in_its_place(
    kind: str, random_model: RandomModel, pixels: Tensor
) -> None:
    model = random_model(kind)
    tokens = tokens_of(7, 3, 12)
    text = pack(tokens, 0)
    pooled = model.pool_pairs(model.encode_pairs(pixels, text), text)
    for index, length in enumerate([7, 3, 12]):
        own = pack(tokens[index : index + 1, :length], 0)
        alone = model.pool_pairs(model.encode_pairs(pixels[index : index + 1], own), own)
        torch.testing.assert_close(pooled[index : index + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
@torch.inference_mode()
def test_the_last_blocks_first_token_alone_is_what_the_whole_block_gives(
    kind: str, random_model: RandomModel, pixels: Tensor, joint: bool
) -> None:
    model = random_model(kind)
    whole = model.encode_pictures(pixels, joint=joint)
    first = model.encode_pictures(pixels, joint=joint, only_first=True)
    assert whole.shape == (3, 17, 32)
    torch.testing.assert_close(first, whole[:, 0], rtol=0, atol=1e-6)
    text = pack(tokens_of(7, 3, 12, 3), 0)
    starts = torch.tensor([0, 3, 6, 13])  # shortest first
    features = model.encode_text(text, joint=joint)
    assert len(features) == 25
    torch.testing.assert_close(
        model.encode_text(text, joint=joint, only_first=True), features[starts], rtol=0, atol=1e-6
    )


@torch.inference_mode()
def test_retrievals_last_block_reads_all_tokens_and_computes_one(random_model: RandomModel, pixels: Tensor) -> None:
    model = random_model()
    seen: dict[str, list[int]] = {}
    for name in ("0.mlp_imag", "2.mlp_imag", "2.mlp_text"):
        module = model.get_submodule(f"transformer.blocks.{name}")
        module.register_forward_hook(lambda _, inputs, __, name=name: seen.setdefault(name, []).append(len(inputs[0])))  # type: ignore[misc]
    model.embed_pictures(pixels)
    model.embed_text(pack(tokens_of(7, 3), 0))
    assert seen == {"0.mlp_imag": [3 * 17], "2.mlp_imag": [3], "2.mlp_text": [2]}
    other = pixels.clone()
    other[:, :, -16:, -16:] += 1
    assert not torch.allclose(model.embed_pictures(other), model.embed_pictures(pixels), atol=1e-3)


@torch.inference_mode()
def test_joint_experts_are_used_by_their_blocks_and_only_when_asked(
    kind: str, random_model: RandomModel, pixels: Tensor
) -> None:
    model = random_model(kind, pretraining=True)
    before = [model.encode_pictures(pixels), model.encode_pictures(pixels, joint=True)]
    assert not torch.allclose(*before, atol=1e-2)
    nn.init.zeros_(model.transformer.blocks[2].mlp_vl.fc2.weight)
    after = [model.encode_pictures(pixels), model.encode_pictures(pixels, joint=True)]
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1], atol=1e-2)


@torch.inference_mode()
def test_word_order_matters_through_the_bias_or_the_position_table(kind: str, random_model: RandomModel) -> None:
    model = random_model(kind)
    ordered, reversed_ = torch.tensor([[2, 9, 8, 7, 3]]), torch.tensor([[2, 7, 8, 9, 3]])

    def difference() -> float:
        return (model.embed_text(pack(ordered, 0)) - model.embed_text(pack(reversed_, 0))).abs().max().item()

    assert difference() > 1e-3
    if kind == "relative":
        nn.init.zeros_(model.relative_position_bias_table)  # type: ignore[arg-type]
    else:
        nn.init.zeros_(model.text_embeddings.position_embeddings.weight)
    assert difference() < 1e-5


@torch.inference_mode()
def test_word_prediction_is_berts(random_model: RandomModel) -> None:
    head = random_model(pretraining=True).mlm_score
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    own = dict(head.named_parameters())
    hidden = nn.functional.gelu(x @ own["transform.dense.weight"].T + own["transform.dense.bias"])
    hidden = nn.functional.layer_norm(
        hidden, (32,), own["transform.LayerNorm.weight"], own["transform.LayerNorm.bias"], 1e-12
    )
    expected = hidden @ own["decoder.weight"].T + own["bias"]
    torch.testing.assert_close(head(x), expected)


@torch.inference_mode()
def test_bf16_embeddings_point_the_same_way(kind: str, random_model: RandomModel, pixels: Tensor) -> None:
    model = random_model(kind)
    text = pack(tokens_of(7, 3, 12), 0)
    exact = [model.embed_pictures(pixels), model.embed_text(text)]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = [model.embed_pictures(pixels), model.embed_text(text)]
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (unit_rows(ours.float()) * unit_rows(theirs)).sum(dim=1).min() > 0.9995


def test_gradients_reach_every_parameter_that_retrieval_uses(
    kind: str, random_model: RandomModel, pixels: Tensor
) -> None:
    model = random_model(kind)
    (model.embed_pictures(pixels).sum() + model.embed_text(pack(tokens_of(7, 3), 0)).sum()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    unused = {"logit_scale"} | {name for name in dict(model.named_parameters()) if "_vl." in name or "pooler" in name}
    if kind == "relative":
        unused.add("text_embeddings.position_embeddings.weight")
    assert without == unused


def test_wrong_sizes_are_refused(random_model: RandomModel) -> None:
    model = random_model()
    with pytest.raises(ValueError, match=r"pictures of \[3, 64, 64\] expected, not \[3, 64, 80\]"):
        model.embed_pictures(torch.zeros(1, 3, 64, 80))
    with pytest.raises(ValueError, match="captions of at most 12 tokens expected, not 13"):
        model.embed_text(pack(torch.ones(1, 13, dtype=torch.int64), 0))


def test_initial_values_are_the_originals() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = meta(names.SIZES["vlmo-base"], pretraining=True)
        drawn = "transformer.blocks.0.attn.qkv.weight"
        values = {
            name: initial_value(name, tensor)
            for name, tensor in model.state_dict().items()
            if tensor.numel() < 10**5 or name in (drawn, "relative_position_bias_table")
        }
    weight = values.pop(drawn)
    assert weight.std() == pytest.approx(0.02, rel=0.01)
    assert weight.abs().max() > 0.06  # the cut is far outside
    for name, value in values.items():
        if name.endswith(("bias", "table")):
            assert not value.any(), name
        elif "gamma" in name:
            assert (value == 0.1).all(), name
        elif "norm" in name.lower():
            assert (value == 1).all(), name
        elif "scale" in name:
            assert value.item() == pytest.approx(2.65926), name
        elif name.endswith("position_ids"):
            assert value.tolist() == [list(range(40))]
        else:
            assert 0.015 < value.std() < 0.025, name
