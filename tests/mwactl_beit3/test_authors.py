"""Checkpoints of the authors' program: what it computed is what we compute, and what we cannot compute is refused."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from mwactl.adapter import AdaptedModel, MergedModel, fold, inject
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.contract import unit_rows
from mwactl.backbone.packing import pack
from mwactl.backbone.spec import ForeignAdapter, ImportHints, ImportsAdapters
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.errors import IncompatibleError, NotFoundError, UsageError, VerificationError
from mwactl.home import weights_path
from mwactl.registry import Registry
from mwactl_beit3 import authors_keys, plugin
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.build import load
from mwactl_beit3.model import Beit3Retrieval
from mwactl_beit3.recognise import recognise
from mwactl_beit3.tokenizer import PADDING

from ..test_readme import commands_under

GOLDEN = Path(os.environ.get("MWACTL_GOLDEN", Path(__file__).parents[1] / "golden"))
WIDTH, LAYERS, MIDDLE = 32, 2, 6
#: The program's options as its training loop keeps them, all strings or plain values.
SAID = {
    "model": "beit3_base_patch16_384_retrieval", "ffn_adapt": True, "ffn_enhance": True, "ffn_mode": "both",
    "ffn_option": "parallel", "ffn_num": MIDDLE, "ffn_adapter_scalar": "0.6", "ffn_adapter_layernorm_option": "none",
}  # fmt: skip
TEXT, VISION, ENHANCER = "adaptmlp_text", "adaptmlp_vision", "enhancemlp"


# -- what the authors' program computed ----------------------------------------------------------------------------


def has_extractors(path: Path) -> bool:
    with safetensors.safe_open(path, "pt") as file:
        return any("adaptmlp" in name for name in file.keys())  # noqa: SIM118


GOLDENS = [path for path in sorted(GOLDEN.glob("beit3_mwa*.safetensors")) if has_extractors(path)]


@pytest.fixture(params=GOLDENS, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path: Path = request.param
    return safetensors.torch.load_file(path), json.loads(path.with_suffix(".json").read_text())["config"]


def imported(golden: tuple[dict[str, Tensor], dict[str, Any]], folder: Path) -> AdaptedModel:
    """The golden weights saved as the training loop saves them, and read by the importer into our model."""
    tensors, said = golden
    sizes = {
        "width": said["encoder_embed_dim"], "layers": said["encoder_layers"], "heads": said["encoder_attention_heads"],
        "hidden": said["encoder_ffn_embed_dim"], "image_size": said["img_size"], "vocabulary": said["vocab_size"],
        "text_positions": said["max_source_positions"], "patch": said["patch_size"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({name: int(size) for name, size in sizes.items()}))
    weights = {name.removeprefix("weights/"): value for name, value in tensors.items() if name.startswith("weights/")}
    torch.save({"model": weights, "args": argparse.Namespace(**said)}, folder / "checkpoint.pth")
    _, spec = find_spec(f"beit3:local-dir:{folder}")
    foreign = plugin.read_foreign(folder / "checkpoint.pth", spec, ImportHints())
    assert foreign is not None
    backbone = plugin.build_without_weights(spec)
    assert isinstance(backbone, Beit3Backbone)
    assert load(backbone.model, dict(foreign.weights), spec.name, folder) == frozenset()
    model = inject(backbone, MethodConfig(mwa=MwaConfig(**foreign.options)))
    model.load_adapter_state(foreign.tensors)
    return model


def largest_differences(model: AdaptedModel | MergedModel, tensors: dict[str, Tensor]) -> dict[str, float]:
    """How far each of the program's outputs is from ours; of text, at real positions."""
    assert isinstance(model.backbone, Beit3Backbone)
    beit3 = model.backbone.model.beit3
    real = tensors["padding_mask"] == 0
    tokens = tensors["text_ids"].masked_fill(~real, PADDING)
    text = pack(tokens, PADDING)
    with torch.inference_mode():
        image, caption = unit_rows(model.encode_image(tensors["image"])), unit_rows(model.encode_text(tokens))
        logits = model.backbone.logit_scale.exp() * image @ caption.T
        pairs = torch.arange(len(logits))
        ours = {
            "vision_tokens": beit3.encode_pictures(tensors["image"]),
            "text_tokens": beit3.encode_text(text),
            "vision_cls": image,
            "language_cls": caption,
            "clip_loss": (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2,
        }
    theirs = {
        **tensors,
        "text_tokens": torch.cat([tensors["text_tokens"][index][real[index]] for index in text.order.tolist()]),
    }
    assert all(value.shape == theirs[name].shape for name, value in ours.items())
    return {name: (value - theirs[name]).abs().max().item() for name, value in ours.items()}


def test_goldens_of_the_authors_program_are_here() -> None:
    assert GOLDENS


def test_an_imported_adapter_computes_what_the_authors_program_computed(golden, tmp_path: Path) -> None:
    differences = largest_differences(imported(golden, tmp_path), golden[0])
    assert max(differences.values()) < 1e-5, differences


def test_merged_it_computes_the_same(golden, tmp_path: Path) -> None:
    differences = largest_differences(fold(imported(golden, tmp_path)), golden[0])
    assert max(differences.values()) < 1e-5, differences


def test_taking_the_crossed_names_by_their_word_computes_something_else(
    golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(authors_keys.EXTRACTORS, TEXT, "text")
    monkeypatch.setitem(authors_keys.EXTRACTORS, VISION, "image")
    differences = largest_differences(imported(golden, tmp_path), golden[0])
    assert min(differences[name] for name in ("vision_tokens", "text_tokens")) > 1e-3


# -- checkpoints of every kind that the program can write -----------------------------------------------------------


def extractor(generator: torch.Generator, *, norm: bool, learned: bool, middle: int = MIDDLE) -> dict[str, Tensor]:
    shapes = {
        "down_proj.weight": (middle, WIDTH), "down_proj.bias": (middle,), "up_proj.weight": (WIDTH, middle),
        "up_proj.bias": (WIDTH,),
    }  # fmt: skip
    if norm:
        shapes |= {"adapter_layer_norm_before.weight": (WIDTH,), "adapter_layer_norm_before.bias": (WIDTH,)}
    if learned:
        shapes |= {"scale": (1,)}
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def enhancer(generator: torch.Generator) -> dict[str, Tensor]:
    hidden = 4 * WIDTH
    shapes = {
        "fc1.weight": (hidden, WIDTH), "fc1.bias": (hidden,), "ffn_layernorm.weight": (hidden,),
        "ffn_layernorm.bias": (hidden,), "fc2.weight": (WIDTH, hidden), "fc2.bias": (WIDTH,),
    }  # fmt: skip
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def adapter_weights(
    modules: tuple[str, ...] = (TEXT, VISION, ENHANCER), *, norm: bool = False, learned: bool = False
) -> dict[str, Tensor]:
    """The modules' tensors under their names, every value different."""
    generator, state = torch.Generator().manual_seed(5), {}
    for layer in range(LAYERS):
        for module in modules:
            own = enhancer(generator) if module == ENHANCER else extractor(generator, norm=norm, learned=learned)
            state |= {f"beit3.encoder.layers.{layer}.{module}.{name}": value for name, value in own.items()}
    return state


@pytest.fixture(scope="session")
def authors_base(random_model: Callable[..., Beit3Retrieval]) -> dict[str, Tensor]:
    """The weights of a tiny BEiT-3 whose FFN is four times as wide inside, as theirs and every published one."""
    return random_model(seed=7, hidden=4 * WIDTH).state_dict()


@pytest.fixture
def folder(tmp_path: Path, write_beit3: Callable[..., Path]) -> Path:
    """Sizes and tokenizer of that BEiT-3, without weights."""
    return write_beit3(tmp_path / "sizes", None, hidden=4 * WIDTH)


@pytest.fixture
def name(folder: Path) -> str:
    return f"beit3:local-dir:{folder}"


@pytest.fixture
def checkpoint(tmp_path: Path, authors_base: dict[str, Tensor]) -> Callable[..., Path]:
    """checkpoint(adapter weights, **options): as the training loop writes it; `said=None`: without args."""

    def write(adapter: dict[str, Tensor], said: dict[str, Any] | None = SAID, **options: Any) -> Path:
        path = tmp_path / "checkpoint-best.pth"
        state = {**authors_base, **adapter}
        document: dict[str, Any] = {"model": state, "epoch": 19, "scaler": {"scale": 65536.0, "growth_factor": 2.0}}
        document["optimizer"] = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 2e-4}]}
        if said is not None:
            document["args"] = argparse.Namespace(**(said | options))
        torch.save(document, path)
        return path

    return write


@pytest.fixture
def read(name: str) -> Callable[..., ForeignAdapter]:
    """read(file, alpha=…, layer_norm=…)"""

    def one(file: Path, **hints: Any) -> ForeignAdapter:
        foreign = plugin.read_foreign(file, find_spec(name)[1], ImportHints(**hints))
        assert foreign is not None
        return foreign

    return one


def their_branches(
    weights: dict[str, Tensor], layer: int, *, scale: float | None, norm: bool
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """One layer's modules as the program's own code computes them, by the side on which it calls them."""
    prefix = f"beit3.encoder.layers.{layer}."

    def extract(module: str) -> Callable[[Tensor], Tensor]:
        own = {key.removeprefix(f"{prefix}{module}."): value for key, value in weights.items() if module in key}
        own = {key: value for key, value in own.items() if not key.startswith("beit3")}

        def branch(x: Tensor) -> Tensor:
            if norm:
                before = [own[f"adapter_layer_norm_before.{kind}"] for kind in ("weight", "bias")]
                x = F.layer_norm(x, (WIDTH,), *before, eps=1e-5)
            up = F.linear(F.relu(F.linear(x, own["down_proj.weight"], own["down_proj.bias"])), own["up_proj.weight"])
            return (up + own["up_proj.bias"]) * (own["scale"] if scale is None else scale)

        return branch

    def enhance(x: Tensor) -> Tensor:
        own = {key.removeprefix(f"{prefix}{ENHANCER}."): value for key, value in weights.items()}
        hidden = F.gelu(F.linear(x, own["fc1.weight"], own["fc1.bias"]))
        hidden = F.layer_norm(hidden, hidden.shape[-1:], own["ffn_layernorm.weight"], own["ffn_layernorm.bias"], 1e-5)
        return F.linear(hidden, own["fc2.weight"], own["fc2.bias"])

    sides = {"image": TEXT, "text": VISION}
    extractors = {
        side: extract(module) for side, module in sides.items() if f"{prefix}{module}.down_proj.bias" in weights
    }
    return extractors, dict.fromkeys(sides, enhance) if f"{prefix}{ENHANCER}.fc1.bias" in weights else {}


@pytest.mark.parametrize(
    ("modules", "norm", "alpha", "options"),
    [
        ((TEXT, VISION, ENHANCER), False, "0.6", {}),
        ((TEXT, VISION, ENHANCER), True, "learnable_scalar", {"layer_norm": True, "alpha": "learned"}),
        ((TEXT, VISION), True, "0.1", {"layer_norm": True, "alpha": 0.1, "alignment_enhancer": 0}),
        ((TEXT,), False, "0.6", {"modalities": ("image",), "alignment_enhancer": 0}),
        ((VISION,), False, "0.6", {"modalities": ("text",), "alignment_enhancer": 0}),
        ((ENHANCER,), False, "0.1", None),
    ],
    ids=["both", "norm-and-learned-scale", "extractors", "text-is-images", "vision-is-text", "enhancer"],
)
def test_each_structure_of_the_program_becomes_the_same_computation(
    checkpoint, read, build, folder, embed, tmp_path: Path, modules, norm, alpha, options
) -> None:
    weights = adapter_weights(modules, norm=norm, learned=alpha == "learnable_scalar")
    mode = "both" if len(modules) > 1 else modules[0].removeprefix("adaptmlp_")
    layer_norm = "in" if norm else "none"
    file = checkpoint(weights, ffn_mode=mode, ffn_adapter_scalar=alpha, ffn_adapter_layernorm_option=layer_norm)
    foreign = read(file)
    fixed = {"preset": "authors-code", "knowledge_extractor": MIDDLE, "alpha": 0.6, "layer_norm": False}
    extractors_off = {"preset": "authors-code", "knowledge_extractor": 0}
    assert foreign.options == (extractors_off if options is None else fixed | options)
    assert foreign.assumed == ()

    safetensors.torch.save_file(dict(foreign.weights), tmp_path / "plain.safetensors")
    reference = build(folder, tmp_path / "plain.safetensors")
    for site in reference.sites():
        scale = None if alpha == "learnable_scalar" else float(alpha)
        site.attach(*their_branches(weights, site.depth, scale=scale, norm=norm))
    model = inject(build(folder, tmp_path / "plain.safetensors"), MethodConfig(mwa=MwaConfig(**foreign.options)))
    model.load_adapter_state(foreign.tensors)
    untouched = embed(build(folder, tmp_path / "plain.safetensors"))
    for ours, theirs, plain, side in zip(embed(model), embed(reference), untouched, ("image", "text"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        changed = side in foreign.options.get("modalities", ("image", "text"))
        assert ((ours - plain).abs().max() > 1e-3) == changed


def test_text_modules_become_those_of_pictures_and_the_reverse(checkpoint, read) -> None:
    weights = adapter_weights()
    tensors = read(checkpoint(weights)).tensors
    for module, side in ((TEXT, "image"), (VISION, "text")):
        theirs = weights[f"beit3.encoder.layers.1.{module}.up_proj.weight"]
        assert torch.equal(tensors[f"adapter.sites.layer/1.knowledge_extractor.{side}.up.weight"], theirs)


def test_the_backbones_tensors_are_all_the_others(checkpoint, read, authors_base) -> None:
    foreign = read(checkpoint(adapter_weights()))
    assert foreign.weights.keys() == authors_base.keys()
    assert all(torch.equal(foreign.weights[key], value) for key, value in authors_base.items())


# -- what the file says, what the user says, what is assumed ---------------------------------------------------------


@pytest.mark.parametrize("as_safetensors", [False, True])
@pytest.mark.parametrize(
    ("hints", "alpha", "assumed"),
    [
        ({}, 0.1, ["alpha 0.1", "layer_norm in"]),
        ({"alpha": 0.6}, 0.6, ["layer_norm in"]),
        ({"layer_norm": "in"}, 0.1, ["alpha 0.1"]),
        ({"alpha": 0.6, "layer_norm": "in"}, 0.6, []),
    ],
)
def test_of_a_file_without_options_the_user_says_them_and_the_rest_is_assumed_aloud(
    checkpoint, read, tmp_path: Path, authors_base, as_safetensors, hints, alpha, assumed
) -> None:
    weights = adapter_weights(norm=True)
    file = checkpoint(weights, said=None)
    if as_safetensors:
        file = tmp_path / "weights.safetensors"
        safetensors.torch.save_file({**authors_base, **weights}, file)
    foreign = read(file, **hints)
    assert (foreign.options["alpha"], foreign.options["layer_norm"]) == (alpha, True)
    assert len(foreign.assumed) == len(assumed)
    assert all(part in phrase for part, phrase in zip(assumed, foreign.assumed, strict=True))


def test_options_in_a_plain_table_count_as_much_as_a_namespace(checkpoint, read, tmp_path: Path) -> None:
    document = torch.load(checkpoint(adapter_weights(), said=None), weights_only=True)
    torch.save({**document, "args": SAID}, tmp_path / "table.pth")
    foreign = read(tmp_path / "table.pth")
    assert (foreign.options["alpha"], foreign.assumed) == (0.6, ())


@pytest.mark.parametrize("hints", [{"alpha": 0.6}, {"layer_norm": "none"}, {"alpha": 0.6, "layer_norm": "none"}])
def test_a_hint_that_says_what_the_file_says_is_fine(checkpoint, read, hints) -> None:
    assert read(checkpoint(adapter_weights()), **hints).options["alpha"] == 0.6


@pytest.mark.parametrize(
    ("modules", "learned", "hints", "said"),
    [
        ((TEXT, VISION), False, {"alpha": 0.5}, "the file says 0.6"),
        ((TEXT, VISION), False, {"layer_norm": "in"}, "the file says none"),
        ((TEXT, VISION), True, {"alpha": 0.5}, "the file says learned"),
        ((ENHANCER,), False, {"alpha": 0.5}, "no Knowledge Extractor"),
    ],
)
def test_a_hint_that_contradicts_the_file_is_a_usage_error(checkpoint, read, modules, learned, hints, said) -> None:
    alpha = "learnable_scalar" if learned else "0.6"
    with pytest.raises(UsageError) as raised:
        read(checkpoint(adapter_weights(modules, learned=learned), ffn_adapter_scalar=alpha), **hints)
    assert said in str(raised.value)


# -- refusals --------------------------------------------------------------------------------------------------------


def renamed(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): value for key, value in weights.items()}


def without(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    left = {key: value for key, value in weights.items() if part not in key}
    assert len(left) < len(weights)
    return left


L0 = "beit3.encoder.layers.0"


@pytest.mark.parametrize(
    ("weights", "options", "why"),
    [
        (adapter_weights(norm=True), {"ffn_adapter_layernorm_option": "out"}, "normalise what they add"),
        (adapter_weights(), {"ffn_option": "sequential"}, "ffn_option sequential their program never adds"),
        (adapter_weights((TEXT, ENHANCER)), {"ffn_mode": "text"}, "adapts the image side alone with adaptmlp_text"),
        (adapter_weights((VISION, ENHANCER)), {"ffn_mode": "vision"}, "adapts the text side alone"),
        (adapter_weights(), {"ffn_mode": "text"}, "say ffn_mode text, its modules are those of both"),
        (adapter_weights(), {"ffn_adapter_layernorm_option": "in"}, "its tensors are those of none"),
        (adapter_weights(norm=True), {}, "ffn_adapter_layernorm_option none, its tensors are those of in"),
        (adapter_weights(learned=True), {}, "say ffn_adapter_scalar 0.6, and it holds scales"),
        (adapter_weights(), {"ffn_adapter_scalar": "learnable_scalar"}, "and it holds no scales"),
        (adapter_weights(), {"ffn_adapter_scalar": "much"}, "much, which is no number"),
        (adapter_weights(), {"ffn_adapter_scalar": "nan"}, "nan, which is no number"),
        (renamed(adapter_weights(), "layers.1.", "layers.7."), {}, "a layer that the backbone's 2 do not have"),
        (renamed(adapter_weights(), "up_proj", "side_proj"), {}, "is no tensor that their program writes"),
        (without(adapter_weights(), "layers.1."), {}, "layer 1 does not hold what layer 0 holds"),
        (without(adapter_weights(), "up_proj.bias"), {}, "it has no adaptmlp_text.up_proj.bias, adaptmlp_vision.up"),
        (without(adapter_weights(), "ffn_layernorm"), {}, "it has no enhancemlp.ffn_layernorm.bias"),
        (without(adapter_weights(norm=True), "text.adapter"), {}, "one of its extractors has adapter_layer_norm"),
        (without(adapter_weights(learned=True), "vision.scale"), {}, "one of its extractors has scale"),
        (
            adapter_weights() | {f"{L0}.{TEXT}.down_proj.weight": torch.zeros(3, WIDTH)},
            {},
            "layer 1 does not hold what layer 0 holds: adaptmlp_text.down_proj.weight",
        ),
    ],
)
def test_what_our_modules_cannot_be_is_refused_with_the_reason(checkpoint, read, weights, options, why) -> None:
    with pytest.raises(IncompatibleError) as raised:
        read(checkpoint(weights, **options))
    assert why in str(raised.value.why)
    assert raised.value.where is not None
    assert "mwactl inject" in str(raised.value.fix)


def test_extractors_of_different_sizes_are_refused(checkpoint, read) -> None:
    weights = adapter_weights()
    generator = torch.Generator().manual_seed(0)
    for layer in range(LAYERS):
        wider = extractor(generator, norm=False, learned=False, middle=9)
        weights |= {f"beit3.encoder.layers.{layer}.{VISION}.{key}": value for key, value in wider.items()}
    with pytest.raises(IncompatibleError, match=r"different middle dimensions: \[6, 9\]"):
        read(checkpoint(weights))


def test_a_file_without_modules_is_nobodys(checkpoint, name) -> None:
    assert plugin.read_foreign(checkpoint({}), find_spec(name)[1], ImportHints()) is None


def test_a_pickle_that_wants_to_run_code_is_not_read(tmp_path: Path, name) -> None:
    class Wants:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "was-run"),))

    torch.save({"model": adapter_weights(), "args": Wants()}, tmp_path / "evil.pth")
    with pytest.raises(VerificationError, match="wants to run code"):
        plugin.read_foreign(tmp_path / "evil.pth", find_spec(name)[1], ImportHints())
    assert not (tmp_path / "was-run").exists()


def test_no_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        plugin.read_foreign(tmp_path / "absent.pth", None, ImportHints())


def test_an_authors_checkpoint_is_no_backbone_and_the_error_says_the_right_command(checkpoint, name) -> None:
    file = checkpoint(adapter_weights())
    _, spec = find_spec(name)
    with pytest.raises(IncompatibleError) as raised:
        plugin.build(spec, WeightsRequest(str(file)))
    assert "adaptmlp_text" in str(raised.value.why)
    assert raised.value.fix == f"mwactl registry add --from-authors {file}"


# -- which BEiT-3 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["beit3-base", "beit3-base-384", "beit3-base-480", "beit3-large", "beit3-large-384"])
def test_a_published_size_is_recognised_by_its_shapes(on_meta, size) -> None:
    assert recognise(on_meta(size).model.state_dict(), None)[0] == size


def test_sizes_without_a_name_are_spelt_out(checkpoint) -> None:
    with pytest.raises(IncompatibleError) as raised:
        plugin.read_foreign(checkpoint(adapter_weights()), None, ImportHints())
    for size in ("width 32", "layers 2", "hidden 128", "image_size 48", "vocabulary 100", "text_positions 66"):
        assert size in str(raised.value.why)
    assert "--backbone beit3:local-dir:FOLDER" in str(raised.value.fix)


@pytest.mark.parametrize(("size", "number"), [("hidden", 64), ("layers", 3), ("image_size", 64), ("vocabulary", 99)])
def test_another_backbone_than_the_files_is_refused_by_the_sizes_that_differ(
    checkpoint, tmp_path: Path, write_beit3, size, number
) -> None:
    other = write_beit3(tmp_path / "other", None, **({"hidden": 4 * WIDTH} | {size: number}))
    _, spec = find_spec(f"beit3:local-dir:{other}")
    with pytest.raises(IncompatibleError) as raised:
        plugin.read_foreign(checkpoint(adapter_weights()), spec, ImportHints())
    assert f"{size} " in str(raised.value.why)
    assert f"not {number}" in str(raised.value.why)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("beit3.text_embed.weight", None, "it has no beit3.text_embed.weight"),
        ("beit3.text_embed.weight", torch.zeros(100), "is [100]"),
        ("beit3.encoder.embed_positions.A.weight", torch.zeros(10, WIDTH), "not 3 and a square number"),
        ("beit3.encoder.embed_positions.A.weight", torch.zeros(2, WIDTH), "not 3 and a square number"),
    ],
)
def test_weights_of_no_whole_beit3_are_refused(authors_base, key, value, why) -> None:
    state = {**authors_base, key: value} if value is not None else {k: v for k, v in authors_base.items() if k != key}
    with pytest.raises(ValueError) as raised:
        recognise(state, None)
    assert why in str(raised.value)


# -- a fresh adapter of the preset -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count"), [("beit3-base", 59_122_176), ("beit3-large", 207_989_760)])
def test_the_preset_trains_as_many_numbers_as_the_authors_program(on_meta, size, count) -> None:
    model = inject(on_meta(size), MethodConfig(mwa=MwaConfig(preset="authors-code")))
    assert model.trainable_count() == count
    layers = {"beit3-base": 12, "beit3-large": 24}[size]
    assert model.adapter is not None
    assert model.adapter.module_counts() == {"knowledge_extractor": 2 * layers, "alignment_enhancer": layers}


def test_a_fresh_adapter_of_the_preset_has_exactly_the_tensors_of_an_imported_one(
    checkpoint, read, build, folder
) -> None:
    foreign = read(checkpoint(adapter_weights()))
    model = inject(
        build(folder, "random"), MethodConfig(mwa=MwaConfig(preset="authors-code", knowledge_extractor=MIDDLE))
    )
    assert {key: value.shape for key, value in model.adapter_state().items()} == {
        key: value.shape for key, value in foreign.tensors.items()
    }


# -- the command, from end to end ------------------------------------------------------------------------------------


def kept_files() -> list[str]:
    return sorted(path.name for path in weights_path().iterdir()) if weights_path().is_dir() else []


def test_the_plugin_says_that_it_imports() -> None:
    assert isinstance(plugin, ImportsAdapters)


def test_an_imported_adapter_is_shown_and_evaluated(mwactl_cli, checkpoint, name, tiny_data) -> None:
    file = checkpoint(adapter_weights(norm=True), ffn_adapter_layernorm_option="in")
    added = mwactl_cli("registry", "add", "--from-authors", file, "--backbone", name, "--name", "theirs", "--json")
    assert (added.code, added.stderr) == (0, "")
    document = added.json
    assert (document["schema"], document["adapter"], document["dry_run"]) == (1, "theirs@1", False)
    assert document["options"] == {
        "preset": "authors-code", "knowledge_extractor": MIDDLE, "alpha": 0.6, "layer_norm": True,
    }  # fmt: skip
    assert document["imported"]["file"] == "checkpoint-best.pth"

    manifest = Registry.default().resolve("theirs").manifest
    stem = f"checkpoint-best-backbone-{document['imported']['sha256'][:12]}.safetensors"
    assert "path" not in manifest["base"]["weights"]
    assert document["backbone_file"] == str(weights_path() / stem)
    assert kept_files() == [stem, f"{stem}.sha256"]
    assert manifest["imported"] == document["imported"]
    shown = mwactl_cli("registry", "show", "theirs")
    assert shown.code == 0
    assert "  from  authors" in shown.stdout.splitlines()
    assert "import  by" in shown.stdout

    file.unlink()  # nothing of the original is needed any more
    evaluated = mwactl_cli("eval", "theirs", "--data", tiny_data, "--json")
    assert (evaluated.code, evaluated.json["adapter"]["reference"]) == (0, "theirs@1")


def test_the_command_says_what_it_assumed_and_what_comes_next(mwactl_cli, checkpoint, name) -> None:
    file = checkpoint(adapter_weights(norm=True), said=None)
    result = mwactl_cli("registry", "add", "--from-authors", file, "--backbone", name)
    assert result.code == 0
    assert "assumed: alpha 0.1, which is their default; layer_norm in" in result.stderr
    assert "4 Knowledge Extractors and 2 Alignment Enhancers at 2 blocks" in result.stdout
    assert "published sizes-authors@1" in result.stdout
    assert "next: mwactl eval sizes-authors@1 --data" in result.stderr
    assert Registry.default().resolve("sizes-authors").manifest["imported"]["assumed"]


def test_adding_again_gives_the_same_version(mwactl_cli, checkpoint, name) -> None:
    file = checkpoint(adapter_weights())
    for _ in range(2):
        assert mwactl_cli("registry", "add", "--from-authors", file, "--backbone", name, "-q").stdout == (
            "sizes-authors@1\n"
        )
    assert len(kept_files()) == 2


def test_a_dry_run_keeps_nothing(mwactl_cli, checkpoint, name) -> None:
    file = checkpoint(adapter_weights())
    result = mwactl_cli("registry", "add", "--from-authors", file, "--backbone", name, "--dry-run", "--json")
    assert (result.code, result.json["adapter"], result.json["dry_run"]) == (0, None, True)
    assert result.json["trainable_parameters"] == sum(value.numel() for value in adapter_weights().values())
    assert kept_files() == []
    assert not Registry.default().root.exists()


def test_a_dry_runs_next_command_is_the_same_without_it(mwactl_cli, checkpoint, name) -> None:
    said = ["--from-authors", checkpoint(adapter_weights()), "--name", "theirs", "--backbone", name, "--alpha", "0.6"]
    result = mwactl_cli("registry", "add", *said, "--dry-run")
    command = result.stderr.removeprefix("next: mwactl ")
    assert mwactl_cli(*shlex.split(command)).code == 0
    assert Registry.default().resolve("theirs@1").manifest["method"]["config"]["mwa"]["alpha"] == 0.6


def test_an_enhancer_that_is_not_four_times_as_wide_inside_is_refused_before_anything_is_kept(
    mwactl_cli, checkpoint, name
) -> None:
    weights = {
        key: value[: 3 * WIDTH] if "fc1" in key or "ffn_layernorm" in key else value[..., : 3 * WIDTH]
        for key, value in adapter_weights((ENHANCER,)).items()
    }
    result = mwactl_cli("registry", "add", "--from-authors", checkpoint(weights), "--backbone", name)
    assert result.code == 4
    assert "alignment_enhancer.shared.fc1" in result.stderr
    assert kept_files() == []


def test_a_missing_tokenizer_leaves_nothing_behind(mwactl_cli, checkpoint, name, folder: Path) -> None:
    (folder / "beit3.spm").unlink()
    result = mwactl_cli("registry", "add", "--from-authors", checkpoint(adapter_weights()), "--backbone", name)
    assert (result.code, result.stdout) == (3, "")
    assert kept_files() == []
    assert not Registry.default().root.exists()


def test_an_adapter_with_values_that_are_no_numbers_is_not_published(mwactl_cli, checkpoint, name) -> None:
    weights = adapter_weights()
    weights[f"{L0}.{TEXT}.up_proj.bias"][0] = torch.nan
    result = mwactl_cli("registry", "add", "--from-authors", checkpoint(weights), "--backbone", name)
    assert (result.code, result.stdout) == (5, "")
    assert "not finite" in result.stderr
    assert kept_files() == []


@pytest.mark.parametrize("heads", ["vision_head.weight", "logit_scale"])
def test_a_backbone_without_its_heads_is_refused_and_not_kept(
    mwactl_cli, checkpoint, name, authors_base, monkeypatch: pytest.MonkeyPatch, heads
) -> None:
    monkeypatch.delitem(authors_base, heads)
    result = mwactl_cli("registry", "add", "--from-authors", checkpoint(adapter_weights()), "--backbone", name)
    assert result.code == 4
    assert heads in result.stderr
    assert kept_files() == []


@pytest.mark.parametrize(
    ("backbone", "code", "said"),
    [("beit3-base", 4, "width 32, not 768"), ("beit3-huge", 3, "beit3-large"), (None, 4, "width 32, layers 2")],
)
def test_a_backbone_that_does_not_fit_or_exist_is_said(mwactl_cli, checkpoint, backbone, code, said) -> None:
    named = [] if backbone is None else ["--backbone", backbone]
    result = mwactl_cli("registry", "add", "--from-authors", checkpoint(adapter_weights()), *named)
    assert (result.code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_backbone_alone_is_no_adapter(mwactl_cli, checkpoint, name) -> None:
    result = mwactl_cli("registry", "add", "--from-authors", checkpoint({}), "--backbone", name)
    assert result.code == 4
    assert "there is no adapter in this file" in result.stderr


def test_inject_points_from_an_authors_checkpoint_to_the_command_that_takes_it(mwactl_cli, checkpoint, name) -> None:
    file = checkpoint(adapter_weights())
    result = mwactl_cli("inject", "--backbone", name, "--weights", file)
    assert result.code == 4
    assert f"fix: mwactl registry add --from-authors {file}" in result.stderr


def test_a_zero_shot_claim_of_an_imported_adapter_is_refused(mwactl_cli, checkpoint, name, tiny_data) -> None:
    file = checkpoint(adapter_weights())
    assert mwactl_cli("registry", "add", "--from-authors", file, "--backbone", name, "--name", "theirs").code == 0
    result = mwactl_cli("eval", "theirs", "--zero-shot", tiny_data)
    assert (result.code, result.stdout) == (5, "")
    assert "what that was trained on is not known" in result.stderr
    assert mwactl_cli("eval", "--data", tiny_data).stderr.find("untrained") == -1


def test_the_readmes_command_takes_a_checkpoint_over(mwactl_cli, checkpoint, name, tmp_path, monkeypatch) -> None:
    checkpoint(adapter_weights()).rename(tmp_path / "checkpoint-best.pth")
    monkeypatch.chdir(tmp_path)
    words = commands_under("Backbones and their weights")[-1]
    assert words[:4] == ["registry", "add", "--from-authors", "checkpoint-best.pth"]
    result = mwactl_cli(*words, "--backbone", name)  # tiny: its sizes are no published model's
    assert (result.code, "coco-authors@1" in result.stdout) == (0, True), result.stderr


@pytest.mark.parametrize("lost", ["vision_head.weight", "beit3.encoder.layers.0.ffn.A.fc1.bias"])
def test_a_checkpoint_whose_backbone_is_not_whole_is_refused_before_anything_is_written(
    mwactl_cli, checkpoint, name, authors_base, monkeypatch, lost: str
) -> None:
    monkeypatch.delitem(authors_base, lost)
    file = checkpoint(adapter_weights())
    for dry_run in (["--dry-run"], []):
        result = mwactl_cli("registry", "add", "--from-authors", file, "--backbone", name, *dry_run)
        assert result.code == 4
        assert (lost in result.stderr, str(file) in result.stderr) == (True, True)
        assert not weights_path().exists()


def test_a_scale_that_would_switch_the_extractors_off_is_refused_as_in_a_recipe(mwactl_cli, checkpoint, name) -> None:
    file = checkpoint(adapter_weights(), said=None)
    result = mwactl_cli("registry", "add", "--from-authors", file, "--backbone", name, "--alpha", "0")
    assert (result.code, "`alpha` is 0, so the modules" in result.stderr) == (2, True)
