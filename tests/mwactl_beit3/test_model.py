"""The encoder computes what the original does, and computes nothing on padding."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwactl.adapter import inject
from mwactl.backbone.contract import unit_rows
from mwactl.backbone.packing import PackedTokens, pack
from mwactl.backbone.precision import autocast
from mwactl.config.recipe import MethodConfig
from mwactl.train.loss import contrastive_loss
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.model import Beit3Retrieval, initialise
from mwactl_beit3.sizes import BASE, LARGE, Beit3Config
from mwactl_beit3.tokenizer import PADDING

MakeModel = Callable[..., Beit3Retrieval]
KEYS = Path(__file__).parent / "keys"
GOLDEN = Path(os.environ.get("MWACTL_GOLDEN", Path(__file__).parents[1] / "golden"))
#: The largest difference of a unit vector's component under bf16 autocast; 0.0042 was measured.
BF16_BOUND = 0.01


# -- what the original computed ------------------------------------------------------------------------------------


def has_adapter(path: Path) -> bool:
    with safetensors.safe_open(path, "pt") as file:
        return any("adapt" in name or "enhance" in name for name in file.keys())  # noqa: SIM118


GOLDENS = [path for path in sorted(GOLDEN.glob("beit3*.safetensors")) if not has_adapter(path)]


@dataclass(frozen=True)
class Golden:
    """A model with the original's weights, and the original's inputs and outputs."""

    model: Beit3Retrieval
    tensors: dict[str, Tensor]
    text: PackedTokens
    real: Tensor  # [b, s]


@pytest.fixture(params=GOLDENS, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    path: Path = request.param
    sizes = json.loads(path.with_suffix(".json").read_text())["config"]
    config = Beit3Config(
        width=int(sizes["encoder_embed_dim"]),
        layers=int(sizes["encoder_layers"]),
        heads=int(sizes["encoder_attention_heads"]),
        hidden=int(sizes["encoder_ffn_embed_dim"]),
        image_size=int(sizes["img_size"]),
        vocabulary=int(sizes["vocab_size"]),
        text_positions=int(sizes["max_source_positions"]),
        patch=int(sizes["patch_size"]),
    )
    tensors = safetensors.torch.load_file(path)
    weights = {name.removeprefix("weights/"): value for name, value in tensors.items() if name.startswith("weights/")}
    model = Beit3Retrieval(config)
    model.load_state_dict(weights, strict=True)
    real = tensors["padding_mask"] == 0
    return Golden(model.eval(), tensors, pack(tensors["text_ids"].masked_fill(~real, PADDING), PADDING), real)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def unpacked(rows: Tensor, text: PackedTokens, shape: tuple[int, ...]) -> Tensor:
    """Packed tokens [t, d] in their places among zeros: [b, s, d]."""
    counts = torch.tensor([run.lengths[-1] for run in text.runs for _ in range(run.count)])
    padded = torch.zeros(*shape, rows.shape[-1])
    padded[torch.repeat_interleave(text.order, counts), text.positions] = rows
    return padded


def test_the_folder_of_goldens_holds_one() -> None:
    assert GOLDENS, f"no beit3*.safetensors in {GOLDEN}"


@torch.inference_mode()
def test_picture_features_are_the_originals(golden: Golden) -> None:
    close(golden.model.beit3.encode_pictures(golden.tensors["image"]), golden.tensors["vision_tokens"])


@torch.inference_mode()
def test_text_features_are_the_originals_at_every_real_token(golden: Golden) -> None:
    found = unpacked(golden.model.beit3.encode_text(golden.text), golden.text, golden.real.shape)
    close(found[golden.real], golden.tensors["text_tokens"][golden.real])
    assert not found[~golden.real].any()


@torch.inference_mode()
def test_retrieval_embeddings_are_the_originals(golden: Golden) -> None:
    close(unit_rows(golden.model.embed_pictures(golden.tensors["image"])), golden.tensors["vision_cls"])
    close(unit_rows(golden.model.embed_text(golden.text)), golden.tensors["language_cls"])


@torch.inference_mode()
def test_fused_features_are_the_originals_at_every_real_token(golden: Golden) -> None:
    fused = golden.model.beit3.encode_pairs(golden.tensors["image"], golden.text)
    split = golden.tensors["fused_tokens"].shape[1] - golden.real.shape[1]
    pictures = torch.empty(len(golden.real), split, fused["image"].shape[-1])
    pictures[golden.text.order] = fused["image"].unflatten(0, (-1, split))
    close(pictures, golden.tensors["fused_tokens"][:, :split])
    text = unpacked(fused["text"], golden.text, golden.real.shape)
    close(text[golden.real], golden.tensors["fused_tokens"][:, split:][golden.real])


@torch.inference_mode()
def test_contrastive_loss_is_the_originals(golden: Golden) -> None:
    image = unit_rows(golden.model.embed_pictures(golden.tensors["image"]))
    text = unit_rows(golden.model.embed_text(golden.text))
    ids = torch.arange(len(image))
    close(contrastive_loss(image, text, golden.model.logit_scale.exp(), ids, ids), golden.tensors["clip_loss"])


@torch.inference_mode()
def test_bf16_stays_near_the_originals_embeddings(golden: Golden) -> None:
    with autocast(torch.device("cpu"), "bf16"):
        image = unit_rows(golden.model.embed_pictures(golden.tensors["image"]))
        text = unit_rows(golden.model.embed_text(golden.text))
    assert image.dtype == text.dtype == torch.bfloat16
    for found, expected in ((image, "vision_cls"), (text, "language_cls")):
        torch.testing.assert_close(found.float(), golden.tensors[expected], rtol=0, atol=BF16_BOUND)


# -- the same, written out with padding and a mask: an oracle for any size and for gradients -------------------------


def padded_encoder(
    weights: dict[str, Tensor], heads: int, x: Tensor, is_text: Tensor, hidden: Tensor
) -> Tensor:  # fmt: skip
    """[b, s, d] -> [b, s, d]: every token through both experts, of which `is_text` [s] picks one; keys are masked."""

    def expert(x: Tensor, compute: Callable[[Tensor, str], Tensor]) -> Tensor:
        return torch.where(is_text[:, None], compute(x, "B"), compute(x, "A"))

    def norm(name: str, x: Tensor, suffix: str = "") -> Tensor:
        def one(x: Tensor, which: str) -> Tensor:
            at = f"{name}.{which}{suffix}"
            return F.layer_norm(x, x.shape[-1:], weights[f"{at}.weight"], weights[f"{at}.bias"], 1e-5)

        return expert(x, one)

    def linear(name: str, x: Tensor, suffix: str = "") -> Tensor:
        def one(x: Tensor, which: str) -> Tensor:
            return F.linear(x, weights[f"{name}.{which}{suffix}.weight"], weights[f"{name}.{which}{suffix}.bias"])

        return expert(x, one)

    depth = 1 + max(int(name.split(".")[3]) for name in weights if name.startswith("beit3.encoder.layers."))
    for index in range(depth):
        at = f"beit3.encoder.layers.{index}"
        z = norm(f"{at}.self_attn_layer_norm", x)
        q, k, v = (linear(f"{at}.self_attn.{name}_proj", z).unflatten(-1, (heads, -1)) for name in "qkv")
        scores = torch.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1])
        shares = scores.masked_fill(hidden[:, None, None, :], -torch.inf).softmax(dim=-1)
        mixed = torch.einsum("bhqk,bkhc->bqhc", shares, v).flatten(2)
        x = x + linear(f"{at}.self_attn.out_proj", norm(f"{at}.self_attn.inner_attn_ln", mixed))
        z = linear(f"{at}.ffn", norm(f"{at}.final_layer_norm", x), ".fc1")
        z = z * (1 + torch.erf(z / math.sqrt(2))) / 2
        x = x + linear(f"{at}.ffn", norm(f"{at}.ffn", z, ".ffn_layernorm"), ".fc2")
    return norm("beit3.encoder.layer_norm", x)


def padded_pictures(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """[b, 3, h, w] -> [b, 1 + p, d], each patch by hand."""
    kernel = weights["beit3.vision_embed.proj.weight"]
    size = kernel.shape[-1]
    patches = F.unfold(pixels, size, stride=size).transpose(1, 2)
    patches = patches @ kernel.flatten(1).T + weights["beit3.vision_embed.proj.bias"]
    x = torch.cat([weights["beit3.vision_embed.cls_token"].expand(len(pixels), -1, -1), patches], dim=1)
    return x + weights["beit3.encoder.embed_positions.A.weight"][2 : 2 + x.shape[1]]


def padded_text(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """[b, s] -> [b, s, d]."""
    positions = weights["beit3.encoder.embed_positions.B.weight"][2 : 2 + tokens.shape[1]]
    return (weights["beit3.text_embed.weight"][tokens] + positions) * (tokens != PADDING)[..., None]


def padded_embeddings(weights: dict[str, Tensor], heads: int, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    image, text = padded_pictures(weights, pixels), padded_text(weights, tokens)
    ours, none = torch.zeros(image.shape[:2], dtype=torch.bool), tokens == PADDING
    image = padded_encoder(weights, heads, image, torch.zeros(image.shape[1], dtype=torch.bool), ours)
    text = padded_encoder(weights, heads, text, torch.ones(text.shape[1], dtype=torch.bool), none)
    return image[:, 0] @ weights["vision_head.weight"].T, text[:, 0] @ weights["language_head.weight"].T


@pytest.fixture
def model(random_model: MakeModel) -> Beit3Retrieval:
    return random_model()


@pytest.fixture
def tokens() -> Tensor:
    """Captions of 2 to 12 tokens, two lengths twice: [7, 12], long ones among short ones."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.full((7, 12), PADDING)
    for row, length in zip(ids, (5, 12, 2, 5, 9, 12, 3), strict=True):
        row[:length] = torch.tensor([0, *torch.randint(3, 90, (length - 2,), generator=generator).tolist(), 2])
    return ids


@torch.inference_mode()
def test_embeddings_are_those_of_a_padded_and_masked_computation(
    model: Beit3Retrieval, pixels: Tensor, tokens: Tensor
) -> None:
    image, text = padded_embeddings(dict(model.named_parameters()), 4, pixels, tokens)
    close(model.embed_pictures(pixels), image)
    close(model.embed_text(pack(tokens, PADDING)), text)


def test_gradients_are_those_of_a_padded_and_masked_computation(
    random_model: MakeModel, pixels: Tensor, tokens: Tensor
) -> None:
    model = random_model().double()
    weights = dict(model.named_parameters())
    pictures = pixels.double().repeat(3, 1, 1, 1)[: len(tokens)]
    ids = torch.arange(len(tokens))

    def gradients(image: Tensor, text: Tensor) -> tuple[Tensor | None, ...]:
        loss = contrastive_loss(unit_rows(image), unit_rows(text), model.logit_scale.exp(), ids, ids)
        return torch.autograd.grad(loss, list(weights.values()), allow_unused=True)

    packed = gradients(model.embed_pictures(pictures), model.embed_text(pack(tokens, PADDING)))
    padded = gradients(*padded_embeddings(weights, 4, pictures, tokens))
    for name, found, expected in zip(weights, packed, padded, strict=True):
        if name == "beit3.vision_embed.mask_token":
            assert found is None
            assert expected is None
        else:
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7), name


# -- nothing on padding ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_captions_embedding_depends_on_no_neighbour_order_or_padding(model: Beit3Retrieval, tokens: Tensor) -> None:
    together = model.embed_text(pack(tokens, PADDING))
    for index, row in enumerate(tokens):
        alone = model.embed_text(pack(row[None, : int((row != PADDING).sum())], PADDING))
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=2e-6)
    order = torch.tensor([3, 6, 0, 5, 2, 1, 4])
    torch.testing.assert_close(model.embed_text(pack(tokens[order], PADDING)), together[order], rtol=0, atol=2e-6)
    longer = F.pad(tokens, (0, 20), value=PADDING)
    assert torch.equal(model.embed_text(pack(longer, PADDING)), together)


@torch.inference_mode()
def test_only_real_tokens_are_computed_and_in_the_last_layer_only_the_pooled_ones(
    model: Beit3Retrieval, pixels: Tensor, tokens: Tensor
) -> None:
    seen: dict[str, list[int]] = {"A": [], "B": []}
    for layer in model.beit3.encoder.layers:
        for expert, rows in seen.items():
            layer.ffn[expert].fc1.register_forward_hook(
                lambda module, inputs, output, rows=rows: rows.append(inputs[0].shape[:-1].numel())
            )
    model.embed_text(pack(tokens, PADDING))
    assert seen == {"A": [], "B": [48, 7]}
    model.embed_pictures(pixels)
    assert seen == {"A": [3 * 10, 3], "B": [48, 7]}


@torch.inference_mode()
def test_a_last_layer_that_computes_the_pooled_token_alone_gives_the_same(
    model: Beit3Retrieval, pixels: Tensor, tokens: Tensor
) -> None:
    every_token = model.beit3.encode_pictures(pixels)
    assert every_token.shape == (3, 10, 32)
    close(model.beit3.encode_pictures(pixels, only_first=True), every_token[:, 0])
    text = pack(tokens, PADDING)
    all_text = unpacked(model.beit3.encode_text(text), text, tuple(tokens.shape))
    close(text.restore(model.beit3.encode_text(text, only_first=True)), all_text[:, 0])


@torch.inference_mode()
def test_fused_each_modality_sees_the_other(model: Beit3Retrieval, pixels: Tensor, tokens: Tensor) -> None:
    tokens, weights = tokens[:3], dict(model.named_parameters())
    text = pack(tokens, PADDING)
    fused = model.beit3.encode_pairs(pixels, text)
    x = torch.cat([padded_pictures(weights, pixels), padded_text(weights, tokens)], dim=1)
    hidden = torch.cat([torch.zeros(3, 10, dtype=torch.bool), tokens == PADDING], dim=1)
    expected = padded_encoder(weights, 4, x, torch.arange(x.shape[1]) >= 10, hidden)
    close(fused["image"].unflatten(0, (3, 10)), expected[text.order, :10])
    close(unpacked(fused["text"], text, (3, 12))[~hidden[:, 10:]], expected[:, 10:][~hidden[:, 10:]])
    apart = model.beit3.encode_pictures(pixels)[text.order].flatten(0, 1)
    assert not torch.allclose(fused["image"], apart, atol=1e-2)
    assert not torch.allclose(fused["text"], model.beit3.encode_text(text), atol=1e-2)


# -- sizes, names, initial values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "config", "count"), [("base", BASE, 494), ("large", LARGE, 974)])
def test_names_and_shapes_are_those_of_the_official_files(size: str, config: Beit3Config, count: int) -> None:
    expected = json.loads((KEYS / f"beit3_{size}_384.json").read_text())
    with torch.device("meta"):
        model = Beit3Retrieval(replace(config, image_size=384))
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == expected
    assert len(expected) == count
    assert not list(model.buffers())


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("beit3-base", 222_167_041),
        ("beit3-base-384", 222_458_881),
        ("beit3-base-480", 222_707_713),
        ("beit3-large", 674_799_617),
        ("beit3-large-384", 675_188_737),
        ("beit3-large-480", 675_520_513),
    ],
)
def test_sizes_in_numbers(on_meta: Callable[[str], Beit3Backbone], name: str, total: int) -> None:
    backbone = on_meta(name)
    assert backbone.count_parameters() == total
    size = int(name.rpartition("-")[2]) if name[-1].isdigit() else 224
    assert backbone.image_size == (size, size)


def test_the_picture_side_of_the_base_model_has_the_published_share() -> None:
    with torch.device("meta"):
        model = Beit3Retrieval(replace(BASE, image_size=384))
    of_pictures = [
        parameter.numel()
        for name, parameter in model.named_parameters()
        if ".A." in name or "vision_embed" in name or "vision_head" in name
    ]
    assert sum(of_pictures) == 86_774_784


@pytest.mark.parametrize("shape", [(1, 3, 32, 48), (1, 3, 64, 64), (1, 1, 48, 48)])
def test_pictures_of_another_size_are_refused(model: Beit3Retrieval, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pictures of \[3, 48, 48\] expected, not"):
        model.embed_pictures(torch.zeros(shape))


def test_full_training_reaches_all_but_the_mask_token_and_the_rows_of_absent_words(
    backbone: Beit3Backbone, pixels: Tensor
) -> None:
    model = inject(backbone, MethodConfig(name="full"))
    tokens = backbone.tokenize(["a dog runs", "the cat", "two children"])
    loss = model.encode_image(pixels).square().sum() + model.encode_text(tokens).square().sum()
    (loss * model.backbone.logit_scale).backward()
    parameters = dict(backbone.named_parameters())
    unused = {name for name, parameter in parameters.items() if parameter.grad is None}
    assert unused == {"model.beit3.vision_embed.mask_token"}
    untouched = {
        name: [row for row, values in enumerate(parameter.grad) if not values.any()]  # type: ignore[arg-type]
        for name, parameter in parameters.items()
        if isinstance(parameter.grad, Tensor) and "embed" in name and parameter.dim() == 2
    }
    longest = int((tokens != PADDING).sum(dim=1).max())
    assert untouched == {
        "model.beit3.text_embed.weight": sorted(set(range(100)) - set(tokens.unique().tolist()) | {PADDING}),
        "model.beit3.encoder.embed_positions.A.weight": [0, 1],
        "model.beit3.encoder.embed_positions.B.weight": [0, 1, *range(2 + longest, 66)],
    }


def test_initial_values_are_spread_as_the_originals() -> None:
    config = Beit3Config(width=128, layers=1, heads=2, hidden=256, image_size=64, vocabulary=500, text_positions=200)
    with torch.device("meta"):
        model = Beit3Retrieval(config)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initialise(model)
    modules: dict[str, Any] = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Linear):
            assert module.weight.abs().max() <= 0.02, name
            assert module.weight.std().item() == pytest.approx(0.0108, rel=0.03), name
            assert module.bias is None or not module.bias.any(), name
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert not module.bias.any(), name
    embedding = model.beit3.vision_embed
    assert not embedding.cls_token.any()
    assert not embedding.mask_token.any()
    bound = (3 * 16 * 16) ** -0.5
    assert 0.99 * bound < embedding.proj.weight.abs().max() <= bound
    assert 0 < embedding.proj.bias.abs().max() <= bound
    assert model.beit3.text_embed.weight.std().item() == pytest.approx(128**-0.5, rel=0.03)
    for table in model.beit3.encoder.embed_positions.values():
        assert table.weight.std().item() == pytest.approx(1, rel=0.1)
    assert model.logit_scale.item() == pytest.approx(2.65926, abs=1e-5)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
