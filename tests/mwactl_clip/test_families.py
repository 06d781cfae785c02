"""Every kind of tower that open_clip builds, in small: what attaches, that it is the paper's equation, what folds."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import sentencepiece
import torch
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from timm.models.vitamin import GeGluMlp
from torch import Tensor, nn

from mwactl.adapter import AdaptedModel, fold, inject, strip
from mwactl.backbone import find_spec
from mwactl.backbone.precision import autocast, hold_frozen
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import IncompatibleError, NotFoundError
from mwactl_clip.backbone import ClipBackbone
from mwactl_clip.block_site import BlockSite

Build = Callable[..., ClipBackbone]
Trained = Callable[..., AdaptedModel]
Rows = tuple[Tensor, Tensor]

SMALL = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
GRID = {"img_size": 32, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4, "patch_size": 4}


def in_small(family: Callable[..., nn.Module], **sizes: Any) -> Callable[..., nn.Module]:
    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        model = family(**sizes, **{key: value for key, value in options.items() if value is not None})
        model.default_cfg = {}  # type: ignore[assignment]
        return model

    return make


SMALL_TIMM = {
    "mwactl_eva": in_small(Eva, **SMALL, init_values=0.5, use_rot_pos_emb=True),
    "mwactl_eva02": in_small(Eva, **SMALL, swiglu_mlp=True, scale_mlp=True, qkv_fused=False, use_rot_pos_emb=True),
    "mwactl_eva02_packed": in_small(Eva, **SMALL, swiglu_mlp=True),
    "mwactl_eva02_post_norm": in_small(Eva, **SMALL, use_post_norm=True),
    "mwactl_relative": in_small(VisionTransformerRelPos, **SMALL, init_values=0.5, shared_rel_pos=True),
    "mwactl_swin": in_small(SwinTransformer, **GRID),
    "mwactl_siglip": in_small(VisionTransformer, **SMALL, class_token=False, init_values=0.5),
    "mwactl_vitamin": in_small(VisionTransformer, **SMALL, mlp_layer=GeGluMlp, class_token=False, global_pool="avg"),
}


@pytest.fixture(scope="module", autouse=True)
def small_timm_models() -> None:
    for name, make in SMALL_TIMM.items():
        make.__name__ = name
        make.__module__ = __name__
        register_model(make)


def timm_tower(name: str, pool: str, proj: str | None = None) -> dict[str, Any]:
    return {"timm_model_name": f"mwactl_{name}", "timm_pool": pool, "timm_proj": proj, "image_size": 32}


VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PIECES = {"hf_tokenizer_name": ".", "context_length": 16}
HF = {**PIECES, "hf_model_name": ".", "hf_proj_type": "linear"}
ROBERTA = {
    "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 20, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
MT5 = {
    "model_type": "mt5", "vocab_size": 200, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2,
    "pad_token_id": 0, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
NLLB = {
    "model_type": "m2m_100", "vocab_size": 200, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "pad_token_id": 1, "max_position_embeddings": 32, "scale_embedding": True,
}  # fmt: skip
SIGLIP_TEXT = {
    **TEXT, **PIECES, "vocab_size": 200, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}, "tokenizer_kwargs": {"clean": "canonicalize"},
}  # fmt: skip
DECODER = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
COCA_VISION = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        vision: open_clip's `vision_cfg`.
        text: Its `text_cfg`.
        rest: The rest of its configuration.
        hugging_face: The text tower's own configuration.
        pieces: What tokenizer of transformers reads its SentencePiece file.
        norm: The name, in a block, of the module that the FFN branch begins with: it reads x1.
        branches: The towers whose Knowledge Extractors cannot be folded.
        cut: Whether padding is cut off captions.
    """

    vision: dict[str, Any] = field(default_factory=lambda: VISION)
    text: dict[str, Any] = field(default_factory=lambda: TEXT)
    rest: dict[str, Any] = field(default_factory=dict)
    hugging_face: dict[str, Any] | None = None
    pieces: str | None = None
    norm: tuple[str, str] = ("ln_2", "ln_2")
    branches: tuple[str, ...] = ()
    cut: bool = True


CUSTOM = {"custom_text": True}
TIMM = ("norm2", "ln_2")
FAMILIES = {
    "EVA": Family(timm_tower("eva", "token"), rest=CUSTOM, norm=TIMM),
    "EVA-02": Family(timm_tower("eva02", "token"), rest=CUSTOM, norm=TIMM, branches=("image",)),
    "EVA-02 packed": Family(timm_tower("eva02_packed", "avg"), rest=CUSTOM, norm=TIMM, branches=("image",)),
    "EVA-02 E": Family(timm_tower("eva02_post_norm", "token"), norm=("mlp", "ln_2"), branches=("image",)),
    "relative positions": Family(timm_tower("relative", "avg"), norm=TIMM),
    "Swin": Family(timm_tower("swin", "avg", "linear"), norm=TIMM),
    "SigLIP": Family(
        timm_tower("siglip", "map", "none"), SIGLIP_TEXT, CUSTOM | {"embed_dim": 32, "init_logit_bias": -10.0},
        pieces="T5Tokenizer", norm=TIMM, cut=False,
    ),
    "ViTamin": Family(timm_tower("vitamin", "avg", "linear"), rest=CUSTOM, norm=TIMM, branches=("image",)),
    "custom blocks": Family({**VISION, "scale_attn": True, "ls_init_value": 0.5}, {**TEXT, "scale_fc": True}, CUSTOM),
    "CoCa": Family(
        COCA_VISION, {**TEXT, "embed_cls": True, "output_tokens": True}, {"multimodal_cfg": DECODER}, cut=False
    ),
    "CoCa RoBERTa": Family(
        COCA_VISION, {**HF, "output_tokens": True}, {"multimodal_cfg": DECODER},
        ROBERTA | {"model_type": "roberta"}, "XLMRobertaTokenizer", ("ln_2", "intermediate"), ("text",),
    ),
    "XLM-R": Family(
        VISION, {**HF, "hf_pooler_type": "cls_pooler"}, {}, ROBERTA | {"model_type": "xlm-roberta"},
        "XLMRobertaTokenizer", ("ln_2", "intermediate"), ("text",),
    ),
    "mT5": Family(VISION, HF, {}, MT5, "T5Tokenizer", ("ln_2", "layer_norm"), ("text",)),
    "NLLB": Family(
        VISION, {**HF, "hf_pooler_type": "cls_pooler"}, {}, NLLB, "NllbTokenizer", ("ln_2", "final_layer_norm")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A SentencePiece model of a few words."""
    folder = tmp_path_factory.mktemp("pieces")
    words = ["a dog runs in the snow", "two cats sit on the grass", "the red ball", "a man on a horse"] * 10
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_prefix=str(folder / "m"), vocab_size=50, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return (folder / "m.model").read_bytes()


SPM_FILE = {"T5Tokenizer": "spiece.model"}


def write(folder: Path, family: Family, pieces: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    model_cfg = {"embed_dim": 16, "vision_cfg": family.vision, "text_cfg": family.text, **family.rest}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    if family.hugging_face is not None:
        (folder / "config.json").write_text(json.dumps(family.hugging_face))
    if family.pieces is not None:
        (folder / SPM_FILE.get(family.pieces, "sentencepiece.bpe.model")).write_bytes(pieces)
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": family.pieces}))
    return folder


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture
def folder(tmp_path: Path, family: Family, pieces: bytes) -> Path:
    return write(tmp_path / "model", family, pieces)


@pytest.fixture
def backbone(folder: Path, build: Build) -> ClipBackbone:
    """Random values, none of them trivial: norms, biases and layer scales too."""
    made = build(folder, "random")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def test_untrained_modules_change_no_bit_and_leave_no_trace(
    backbone: ClipBackbone, embed: Callable[..., Rows], train_a_little: Callable[[AdaptedModel], None]
) -> None:
    image, text = embed(backbone)
    names = list(backbone.state_dict())
    model = inject(backbone, MethodConfig(mwa=MwaConfig(knowledge_extractor=4, alignment_enhancer=6)))
    assert list(backbone.state_dict()) == names
    assert all(map(torch.equal, embed(model), (image, text)))
    train_a_little(model)
    assert not any(torch.allclose(*pair, atol=1e-4) for pair in zip(embed(model), (image, text), strict=True))
    assert all(map(torch.equal, embed(strip(model)), (image, text)))  # type: ignore[arg-type]
    assert not any("forward" in vars(module) for module in backbone.modules())


def test_gradients_reach_every_module_and_nothing_else(
    backbone: ClipBackbone, trained: Trained, pixels: Tensor, captions: list[str]
) -> None:
    model = trained(backbone, knowledge_extractor=4, alignment_enhancer=6).train()
    embeddings = model.encode_image(pixels), model.encode_text(backbone.tokenize(captions))
    torch.stack([rows.square().sum() for rows in embeddings]).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.trainable().values())
    assert all(name.startswith("adapter.") for name in model.trainable())
    assert all(parameter.grad is None for parameter in backbone.parameters())


@torch.inference_mode()
def test_each_block_is_the_papers_equation(
    backbone: ClipBackbone, family: Family, trained: Trained, pixels: Tensor, captions: list[str]
) -> None:
    """x1 is what the FFN's branch reads; x2 what the bare block gives, KE(x1) beside the FFN; then AE(x2)."""
    adapted = trained(backbone, knowledge_extractor=4, alignment_enhancer=6)
    assert adapted.adapter is not None
    sites = {site.name: site for site in backbone.sites()}
    calls: dict[str, tuple[Any, Any]] = {}
    results: dict[str, Tensor] = {}
    x1: dict[str, Tensor] = {}
    blocks = {name: block_of(site) for name, site in sites.items()}
    hooks: list[Any] = []
    for name, block in blocks.items():
        begin = block.get_submodule(family.norm[name.startswith("text")])
        hooks.append(begin.register_forward_pre_hook(lambda _, args, name=name: x1.update({name: args[0]})))
        hooks.append(block.register_forward_pre_hook(
            lambda _, args, options, name=name: calls.update({name: (args, options)}), with_kwargs=True))  # fmt: skip
        hooks.append(block.register_forward_hook(lambda _, args, out, name=name: results.update({name: first(out)})))
    adapted.encode_image(pixels)
    adapted.encode_text(backbone.tokenize(captions))
    for hook in hooks:
        hook.remove()
    adapter = adapted.adapter
    strip(adapted)
    post_ln = "intermediate" in family.norm
    for name, block in blocks.items():
        tower = name.partition("/")[0]
        extractor = adapter.get_submodule(f"sites.{name}.knowledge_extractor.{tower}")
        enhancer = adapter.get_submodule(f"sites.{name}.alignment_enhancer.{tower}")
        args, options = calls[name]
        branch = extractor(x1[name])
        if post_ln and tower == "text":  # inside the sum that the layer normalises
            x2 = block.output.LayerNorm(block.output.dense(block.intermediate(x1[name])) + x1[name] + branch)  # type: ignore[operator,union-attr]
        else:
            bare = first(block(*args, **options))
            x2 = bare + branch.reshape(bare.shape)
        torch.testing.assert_close(results[name], x2 + enhancer(x2), rtol=1e-4, atol=1e-4)


def block_of(site: Any) -> nn.Module:
    assert isinstance(site, BlockSite)
    block: nn.Module = getattr(site, "_block", None) or getattr(site, "_layer", None) or site._module
    return block


def first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def test_a_merged_model_computes_the_same_and_says_what_stayed_a_branch(
    backbone: ClipBackbone, folder: Path, family: Family, trained: Trained, embed: Callable[..., Rows],
    difference: Callable[..., float],
) -> None:  # fmt: skip
    adapted = trained(backbone, knowledge_extractor=4, alignment_enhancer=6)
    rows, method = embed(adapted), adapted.method
    merged = fold(adapted)
    assert difference(merged, rows) <= 1e-5
    kept = [sentence for sentence in merged.kept if "Knowledge" in sentence]
    assert [next(tower for tower in ("image", "text") if f"{tower}/0" in sentence) for sentence in kept] == list(
        family.branches
    )
    # Built again without weights it has the same structure, and with the tensors it is the same model.
    plugin, spec = find_spec(f"clip:local-dir:{folder}")
    empty = fold(inject(plugin.build_without_weights(spec), method))
    assert empty.kept == merged.kept
    empty.load_complete_state(merged.complete_state(), where="a test")
    assert all(map(torch.equal, embed(empty), embed(merged)))


def test_every_linear_map_that_a_block_names_is_called(
    backbone: ClipBackbone, family: Family, embed: Callable[..., Rows]
) -> None:
    """What is put in place of a map that is not called would never compute anything."""
    named: dict[str, list[nn.Linear]] = {"image": [], "text": []}
    for site in backbone.sites():
        (tower,) = site.modalities
        parts = site.feed_forward(tower)
        named[tower] += [*site.attention_linears(tower), *([] if parts is None else [parts.fc1, parts.fc2])]
    called: set[nn.Module] = set()
    for linear in (*named["image"], *named["text"]):
        linear.register_forward_hook(lambda module, *_: called.add(module))
    embed(backbone)
    assert called == {*named["image"], *named["text"]}
    assert all(named.values())


@torch.inference_mode()
def test_a_caption_is_the_same_with_and_without_its_padding(
    backbone: ClipBackbone, family: Family, trained: Trained
) -> None:
    model = trained(backbone, knowledge_extractor=4, alignment_enhancer=6)
    tokens = backbone.tokenize(["a dog", "two cats"])
    assert tokens.shape == (2, backbone.context_length)
    assert (backbone.trim_tokens(tokens).shape[1] < tokens.shape[1]) == family.cut
    assert backbone.portable().text["trim"] == family.cut
    together = model.encode_text(tokens)
    torch.testing.assert_close(model.encode_padded_text(tokens), together, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.encode_text(tokens[:1]), together[:1], rtol=0, atol=1e-5)
    with_padding = backbone.model.encode_text(tokens, normalize=False)  # open_clip's own way, with the modules attached
    torch.testing.assert_close(with_padding, together, rtol=0, atol=1e-5)


def test_in_half_precision_the_embeddings_are_nearly_the_same(
    backbone: ClipBackbone, trained: Trained, embed: Callable[..., Rows]
) -> None:
    model = trained(backbone, knowledge_extractor=4, alignment_enhancer=6)
    rows = embed(model)
    hold_frozen(backbone, "bf16")
    with autocast(torch.device("cpu"), "bf16"):
        half = embed(model)
    for found, expected in zip(half, rows, strict=True):
        assert (torch.cosine_similarity(found.float(), expected) > 0.99).all()


def test_no_parameter_of_cocas_decoder_is_counted_or_trained(tmp_path: Path, pieces: bytes, build: Build) -> None:
    backbone = build(write(tmp_path, FAMILIES["CoCa"], pieces), "random")
    assert not any("decoder" in name for name in backbone.state_dict())
    model = inject(backbone, MethodConfig(name="full"))
    assert not any("decoder" in name for name in model.trainable())
    whole = open_clip.CoCa(embed_dim=16, vision_cfg=COCA_VISION, text_cfg=FAMILIES["CoCa"].text, multimodal_cfg=DECODER)
    decoder = sum(parameter.numel() for parameter in whole.text_decoder.parameters())
    everything = sum(parameter.numel() for parameter in whole.parameters())
    assert backbone.count_parameters() == everything - decoder < everything


def test_a_swins_sites_have_the_widths_of_their_stages(tmp_path: Path, pieces: bytes, build: Build) -> None:
    backbone = build(write(tmp_path, FAMILIES["Swin"], pieces), "random")
    assert [(site.name, site.width) for site in backbone.sites(["image"])] == [
        ("image/0", 16), ("image/1", 16), ("image/2", 32)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "head"),
    [("EVA", "visual.trunk.head."), ("Swin", "visual.head.proj."), ("mT5", "visual.proj"), ("NLLB", "text.proj.")],
)
def test_both_towers_projections_are_the_head(
    tmp_path: Path, pieces: bytes, build: Build, name: str, head: str
) -> None:
    backbone = build(write(tmp_path, FAMILIES[name], pieces), "random")
    names = backbone.head_parameter_names()
    assert any(found.startswith(f"model.{head}") for found in names)
    assert {"visual" in found for found in names} == {True, False}


@pytest.mark.parametrize(
    ("kind", "message"),
    [("distilbert", "open_clip has no text tower of the kind `distilbert`"), ("x", "transformers knows no such text")],
)
def test_a_text_model_that_open_clip_cannot_use_is_refused_by_its_kind(
    tmp_path: Path, pieces: bytes, build: Build, kind: str, message: str
) -> None:
    folder = write(tmp_path, Family(VISION, HF, hugging_face={"model_type": kind}), pieces)
    with pytest.raises(IncompatibleError, match=message):
        build(folder, "random")


def test_sentencepiece_files_beside_the_model_make_its_tokenizer(tmp_path: Path, pieces: bytes, build: Build) -> None:
    backbone = build(write(tmp_path, FAMILIES["SigLIP"], pieces), "random")
    model = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    ids = [*model.encode("the dog runs"), model.eos_id()]
    assert backbone.tokenize(["The dog, runs!"])[0].tolist() == ids + [0] * (16 - len(ids))


@pytest.mark.parametrize("kind", ["XLMRobertaTokenizer", "GemmaTokenizer", "BertTokenizer"])
def test_a_vocabulary_under_a_name_that_the_tokenizer_does_not_read_is_not_found(
    tmp_path: Path, pieces: bytes, build: Build, kind: str
) -> None:
    """transformers makes a tokenizer that knows no word instead, and says nothing."""
    folder = write(tmp_path, FAMILIES["SigLIP"], pieces)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(NotFoundError, match="the tokenizer of .* is not on this machine") as raised:  # noqa: RUF043
        build(folder, "random").tokenize(["a dog"])
    assert "tokenizer.json" in (raised.value.why or "") and kind in (raised.value.why or "")
    assert raised.value.fix == "copy its files to this folder"


@pytest.mark.usefixtures("no_network")
def test_a_tokenizer_of_the_hub_is_named_where_it_is_missing(
    on_meta: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotFoundError) as raised:
        on_meta("clip:ViT-B-16-SigLIP2").tokenize(["a dog"])
    assert raised.value.where == "timm/ViT-B-16-SigLIP2"


@pytest.mark.parametrize(("name", "fix"), [("clip:ViT-B-32", "--weights openai"), (None, "--weights FILE")])
def test_openais_own_archives_are_refused_with_the_tag_that_has_the_same_weights(
    tmp_path: Path, pieces: bytes, build: Build, name: str | None, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ViT-B-32.pt"
    with zipfile.ZipFile(file, "w") as archive:
        for part in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"ViT-B-32/{part}", b"")
    tiny = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    monkeypatch.setattr("open_clip.get_model_config", lambda _: json.loads(json.dumps(tiny)))
    with pytest.raises(IncompatibleError, match="TorchScript archive") as raised:
        build(name or write(tmp_path / "model", FAMILIES["custom blocks"], pieces), file)
    assert (raised.value.fix or "").startswith(fix)
    assert raised.value.where == str(file)
