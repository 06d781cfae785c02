"""Building a model and loading its weights: the official layout, every key accounted for, or an error that says why."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mwactl.adapter import inject
from mwactl.backbone import WeightsRequest
from mwactl.backbone.fingerprint import fingerprint
from mwactl.config.recipe import MethodConfig
from mwactl.errors import ExitCode, IncompatibleError, NotFoundError, VerificationError
from mwactl.files import sha256_file
from mwactl_beit3 import names, plugin
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.model import Beit3Retrieval
from mwactl_beit3.positions import resize_positions
from mwactl_beit3.sizes import Beit3Config

Build = Callable[..., Beit3Backbone]
State = dict[str, Tensor]
HEADS = ("vision_head.weight", "language_head.weight", "logit_scale")
POSITIONS = "beit3.encoder.embed_positions.A.weight"
LAYER_KEY = "beit3.encoder.layers.1.ffn.B.fc1.weight"


@pytest.fixture
def state(tiny_beit3: Path) -> State:
    """The weights of `tiny_beit3` under their official names."""
    return safetensors.torch.load_file(tiny_beit3 / "model.safetensors")


def training_checkpoint(state: State) -> dict[str, Any]:
    """What the official training code saves."""
    parameters = [tensor.clone().requires_grad_() for tensor in list(state.values())[:3]]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    sum(parameter.sum() for parameter in parameters).backward()  # type: ignore[union-attr]
    optimizer.step()
    return {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "epoch": 14,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
        "args": argparse.Namespace(model="beit3_base_patch16_384", lr=2e-4, betas=[0.9, 0.999], output_dir=None),
    }


def holds(backbone: Beit3Backbone, state: State) -> bool:
    loaded = backbone.model.state_dict()
    return loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


# -- what loads --------------------------------------------------------------------------------------------------------


def test_a_training_checkpoint_in_the_official_layout_loads(
    tiny_beit3: Path, build: Build, state: State, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint-best.pth"
    torch.save(training_checkpoint(state), file)
    backbone = build(tiny_beit3, file)
    assert holds(backbone, state)
    assert backbone.weights.as_dict() == {
        "source": "file", "path": str(file.resolve()), "file_sha256": sha256_file(file), "seed": None,
    }  # fmt: skip
    assert not backbone.untrained_parameter_names()


def distributed(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [lambda state: {"module": state}, lambda state: state, lambda state: {"model": distributed(state)}, distributed],
    ids=["module", "bare", "distributed", "bare distributed"],
)
def test_other_containers_of_the_official_files_load(
    tiny_beit3: Path, build: Build, state: State, tmp_path: Path, wrap: Callable[[State], Any]
) -> None:
    torch.save(wrap(state), tmp_path / "weights.pth")
    assert holds(build(tiny_beit3, tmp_path / "weights.pth"), state)


@pytest.mark.parametrize("name", ["model.pth", "model.pt"])
def test_a_folder_may_hold_a_torch_file(
    tiny_beit3: Path, build: Build, state: State, tmp_path: Path, write_beit3: Callable[..., Path], name: str
) -> None:
    folder = write_beit3(tmp_path / "model", None)
    torch.save({"model": state}, folder / name)
    backbone = build(folder)
    assert holds(backbone, state)
    assert backbone.weights.path == (folder / name).resolve()
    assert fingerprint(backbone) == fingerprint(build(tiny_beit3))


def test_half_precision_becomes_fp32(tiny_beit3: Path, build: Build, state: State, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in state.items()}
    torch.save({"model": half}, tmp_path / "half.pth")
    safetensors.torch.save_file(half, tmp_path / "half.safetensors")
    for file in ("half.pth", "half.safetensors"):
        assert holds(build(tiny_beit3, tmp_path / file), {name: tensor.float() for name, tensor in half.items()})


def test_a_checkpoint_and_its_conversion_are_the_same_backbone(
    tiny_beit3: Path, build: Build, state: State, tmp_path: Path
) -> None:
    torch.save(training_checkpoint(state), tmp_path / "official.pth")
    safetensors.torch.save_file(state, tmp_path / "converted.safetensors")
    own = fingerprint(build(tiny_beit3))
    assert own.startswith("sha256:")
    assert fingerprint(build(tiny_beit3, tmp_path / "official.pth")) == own
    assert fingerprint(build(tiny_beit3, tmp_path / "official.pth")) == own  # now from the conversion
    assert fingerprint(build(tiny_beit3, tmp_path / "converted.safetensors")) == own


def test_loading_leaves_the_file_as_it_is(
    tiny_beit3: Path, build: Build, train_a_little: Callable[..., None], tmp_path: Path
) -> None:
    file = Path(shutil.copy(tiny_beit3 / "model.safetensors", tmp_path))
    before = sha256_file(file)
    train_a_little(inject(build(tiny_beit3, file), MethodConfig(name="full")))
    assert sha256_file(file) == before


def test_positions_of_another_picture_size_are_resampled(
    build: Build, state: State, tmp_path: Path, write_beit3: Callable[..., Path], pixels: Tensor
) -> None:
    for size, patches in ((32, 4), (80, 25)):
        backbone = build(write_beit3(tmp_path / str(size), state, image_size=size))
        assert backbone.image_size == (size, size)
        table = backbone.model.state_dict()[POSITIONS]
        assert table.shape == (patches + 3, 32)
        assert torch.equal(table, resize_positions(state[POSITIONS], patches))
        assert holds(backbone, state | {POSITIONS: table})
        assert backbone.encode_image(torch.zeros(1, 3, size, size)).isfinite().all()
    half = {name: tensor.half() for name, tensor in state.items()}
    torch.save(half, tmp_path / "half.pth")
    resized = build(tmp_path / "80", tmp_path / "half.pth").model.state_dict()[POSITIONS]
    assert torch.equal(resized, resize_positions(half[POSITIONS].float(), 25))


# -- what the file may lack or hold beside -----------------------------------------------------------------------------


@pytest.fixture
def headless(state: State, tmp_path: Path) -> Path:
    """A pre-training file: no retrieval heads, but those of masked data modelling."""
    for name in HEADS:
        del state[name]
    state |= {
        "mlm_head.weight": torch.ones(100, 32), "mlm_head.bias": torch.ones(100),
        "mim_head.weight": torch.ones(50, 32), "mim_head.bias": torch.ones(50),
    }  # fmt: skip
    file = tmp_path / "beit3_base_patch16_224.pth"
    torch.save({"model": state}, file)
    return file


def test_heads_that_the_file_lacks_are_the_same_on_every_build_and_disturb_no_random_state(
    tiny_beit3: Path, build: Build, headless: Path
) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build(tiny_beit3, headless)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = build(tiny_beit3, headless)
    assert fingerprint(first) == fingerprint(second)
    for head in (first.model.vision_head, first.model.language_head):
        assert 0 < head.weight.abs().max() <= 0.02
    assert first.logit_scale.item() == pytest.approx(2.65926, abs=1e-5)


def test_heads_that_the_file_lacks_are_trained_and_counted(tiny_beit3: Path, build: Build, headless: Path) -> None:
    backbone = build(tiny_beit3, headless)
    policy = {f"model.{name}" for name in HEADS}
    assert backbone.untrained_parameter_names() == policy
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in backbone.parameters())
    model = inject(backbone, MethodConfig())
    trained = {name.removeprefix("backbone.") for name in model.trainable() if not name.startswith("adapter.")}
    assert trained == policy
    without = inject(build(tiny_beit3), MethodConfig())
    assert model.trainable_count() == without.trainable_count() + 2 * 32 * 32 + 1


def test_one_lacking_parameter_is_the_only_one_to_be_trained(
    tiny_beit3: Path, build: Build, state: State, tmp_path: Path
) -> None:
    for name in HEADS:
        file = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file({key: value for key, value in state.items() if key != name}, file)
        backbone = build(tiny_beit3, file)
        assert backbone.untrained_parameter_names() == {f"model.{name}"}
        kept = {key: value for key, value in backbone.model.state_dict().items() if key != name}
        assert all(torch.equal(kept[key], state[key]) for key in kept)


def test_pretraining_heads_leave_no_trace(tiny_beit3: Path, build: Build, state: State, tmp_path: Path) -> None:
    for name in ("mlm_head", "mim_head", "beit3.encoder.output_projection"):
        extra = {f"{name}.weight": torch.ones(9, 32), f"{name}.bias": torch.ones(9)}
        safetensors.torch.save_file(state | extra, tmp_path / "more.safetensors")
        assert fingerprint(build(tiny_beit3, tmp_path / "more.safetensors")) == fingerprint(build(tiny_beit3))


# -- what is refused ---------------------------------------------------------------------------------------------------


def missing(state: State) -> None:
    del state[LAYER_KEY]


def surplus(state: State) -> None:
    state["beit3.encoder.layers.2.ffn.B.fc1.weight"] = torch.zeros(48, 32)


def like_a_pretraining_head(state: State) -> None:
    state["my_mim_head.weight"] = torch.zeros(9, 32)


def misshapen(state: State) -> None:
    state[LAYER_KEY] = torch.zeros(49, 32)


def no_positions(state: State) -> None:
    del state[POSITIONS]


def narrow_positions(state: State) -> None:
    state[POSITIONS] = torch.zeros(12, 16)


def positions_off_the_square(state: State) -> None:
    state[POSITIONS] = torch.zeros(11, 32)


def positions_in_one_line(state: State) -> None:
    state[POSITIONS] = torch.zeros(28)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (positions_in_one_line, f"{POSITIONS}: [28] is not the shape of a table"),
        (missing, f"missing: {LAYER_KEY}"),
        (surplus, "unexpected: beit3.encoder.layers.2.ffn.B.fc1.weight"),
        (like_a_pretraining_head, "unexpected: my_mim_head.weight"),
        (misshapen, f"misshapen: {LAYER_KEY} is [49, 32], the model's is [48, 32]"),
        (no_positions, f"missing: {POSITIONS}"),
        (narrow_positions, f"misshapen: {POSITIONS} is [12, 16], the model's is [12, 32]"),
        (positions_off_the_square, f"{POSITIONS}: 11 rows are not 3 and a square number"),
    ],
)
@pytest.mark.parametrize("container", ["safetensors", "pth"])
def test_another_models_weights_are_incompatible_and_the_tensor_is_named(
    tiny_beit3: Path, build: Build, state: State, tmp_path: Path, spoil: Callable[[State], None], said: str,
    container: str,
) -> None:  # fmt: skip
    spoil(state)
    file = tmp_path / f"weights.{container}"
    safetensors.torch.save_file(state, file) if container == "safetensors" else torch.save({"model": state}, file)
    with pytest.raises(IncompatibleError, match="these weights are not those of beit3:local-dir:") as raised:
        build(tiny_beit3, file)
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert said in (raised.value.why or "")
    assert raised.value.where == str(file)
    assert "--weights FILE" in (raised.value.fix or "")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("container", ["safetensors", "pth"])
def test_a_truncated_file_is_refused(
    tiny_beit3: Path, build: Build, state: State, tmp_path: Path, container: str, keep: float
) -> None:
    file = tmp_path / f"weights.{container}"
    safetensors.torch.save_file(state, file) if container == "safetensors" else torch.save({"model": state}, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(VerificationError, match="not a complete") as raised:
        build(tiny_beit3, file)
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert raised.value.where == str(file)


class Exploit:
    """Unpickled without care, this writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def test_a_pickle_that_wants_to_run_code_is_refused_by_name_and_runs_none(
    tiny_beit3: Path, build: Build, state: State, tmp_path: Path
) -> None:
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"model": state, "args": Exploit(trace)}, file)
    with pytest.raises(VerificationError) as raised:
        build(tiny_beit3, file)
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert f"{os.system.__module__}.system" in (raised.value.why or "")
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"width": 32, "layers": 2, "heads": 5, "hidden": 48, "image_size": 48}',
        '{"width": 32, "layers": 2, "heads": 4, "hidden": 48, "image_size": 40}',
        '{"width": 32, "layers": 0, "heads": 4, "hidden": 48, "image_size": 48}',
        '{"width": 32, "layers": "2", "heads": 4, "hidden": 48, "image_size": 48}',
        '{"width": 32, "layers": true, "heads": 4, "hidden": 48, "image_size": 48}',
        '{"width": 32, "layers": 2.0, "heads": 4, "hidden": 48, "image_size": 48}',
    ],
)
def test_a_folder_with_a_broken_configuration_is_incompatible(tmp_path: Path, build: Build, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(IncompatibleError, match="not a BEiT-3 configuration") as raised:
        build(tmp_path, "random")
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert raised.value.where == str(tmp_path / "config.json")
    assert raised.value.why
    assert "width, layers, heads, hidden, image_size" in (raised.value.fix or "")


def test_a_folder_without_weights_or_tokenizer_says_so(
    build: Build, tmp_path: Path, write_beit3: Callable[..., Path], state: State
) -> None:
    folder = write_beit3(tmp_path / "model", None)
    with pytest.raises(NotFoundError, match="no weights in this folder") as raised:
        build(folder)
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert "--weights random" in (raised.value.fix or "")
    write_beit3(folder, state)
    (folder / "beit3.spm").unlink()
    with pytest.raises(NotFoundError, match="tokenizer") as raised:
        build(folder)
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert raised.value.where == str(folder / "beit3.spm")
    assert raised.value.fix == f"put beit3.spm into {folder}"


# -- random values -----------------------------------------------------------------------------------------------------


def test_random_values_depend_on_the_seed_alone(tiny_beit3: Path, build: Build) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build(tiny_beit3, "random", seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert fingerprint(build(tiny_beit3, "random", seed=3)) == fingerprint(first)
    assert fingerprint(build(tiny_beit3, "random", seed=4)) != fingerprint(first)
    assert first.weights.as_dict() == {"source": "random", "path": None, "file_sha256": None, "seed": 3}
    assert not first.untrained_parameter_names()
    assert all(parameter.isfinite().all() for parameter in first.parameters())


# -- the published names -----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_base(monkeypatch: pytest.MonkeyPatch, tiny_beit3: Path) -> None:
    """`beit3-base` is as small as `tiny_beit3`."""
    config = Beit3Config(**json.loads((tiny_beit3 / "config.json").read_text()))
    monkeypatch.setitem(names.SIZES, "beit3-base", config)


@pytest.mark.usefixtures("no_network", "tiny_base")
def test_official_files_are_found_by_tag_under_their_published_names(
    empty_home: Path, state: State, tiny_spm: bytes
) -> None:
    spec = next(spec for spec in plugin.specs() if spec.name == "beit3-base")
    anyones_tokenizer = replace(spec, tokenizer=replace(names.TOKENIZER, sha256=None))
    folder = empty_home / "weights"
    folder.mkdir(parents=True)
    (folder / "beit3.spm").write_bytes(tiny_spm)
    torch.save(training_checkpoint(state), folder / "beit3_base_itc_patch16_224.pth")
    moved = {name: tensor + 1 for name, tensor in state.items()}
    torch.save(training_checkpoint(moved), folder / "beit3_base_patch16_384_coco_retrieval.pth")
    for source, weights, tag in ((None, state, "itc"), ("itc", state, "itc"), ("coco", moved, "coco")):
        backbone = plugin.build(anyones_tokenizer, WeightsRequest(source))
        assert isinstance(backbone, Beit3Backbone)
        assert holds(backbone, weights)
        assert backbone.weights.source == tag
        assert backbone.weights.path is not None
        assert backbone.weights.path.parent == folder.resolve()
    with pytest.raises(VerificationError) as raised:
        plugin.build(spec, WeightsRequest())  # whose tokenizer's digest is the published one
    assert raised.value.where == str(folder / "beit3.spm")
    assert "6f5e2fefcf793761" in str(raised.value)


@pytest.mark.usefixtures("no_network", "tiny_base")
@pytest.mark.parametrize(
    ("source", "fix"),
    [
        (None, "mwactl backbones pull beit3-base"),
        ("f30k", "mwactl backbones pull beit3-base --weights f30k"),
        ("flickr", "--weights FILE"),
    ],
)
def test_weights_that_are_not_here_are_not_fetched_unasked(source: str | None, fix: str, build: Build) -> None:
    with pytest.raises(NotFoundError) as raised:
        build("beit3-base", source)
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert fix in (raised.value.fix or "")


@pytest.mark.usefixtures("no_network", "tiny_base")
def test_a_tokenizer_that_is_not_here_is_not_fetched_unasked(build: Build, tiny_beit3: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(tiny_beit3 / "model.safetensors", tmp_path))
    for source in (file, "random"):
        with pytest.raises(NotFoundError, match="`tokenizer` of beit3-base is not on this machine") as raised:
            build("beit3-base", source)
        assert raised.value.fix == "--download, or mwactl backbones pull beit3-base --weights tokenizer"


# -- without weights ---------------------------------------------------------------------------------------------------


def test_shapes_without_weights_are_those_of_the_model(
    on_meta: Build, tiny_beit3: Path, backbone: Beit3Backbone
) -> None:
    shapes = on_meta(f"beit3:local-dir:{tiny_beit3}")
    assert all(parameter.is_meta for parameter in shapes.parameters())
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    assert {name: tensor.shape for name, tensor in shapes.state_dict().items()} == expected
    assert shapes.encode_image(torch.empty(2, 3, 48, 48, device="meta")).shape == (2, 32)
    assert shapes.encode_text(torch.zeros(3, 64, dtype=torch.int64, device="meta")).shape == (3, 32)
    assert shapes.weights.source == "none"
    with pytest.raises(ValueError, match="was built without weights"):
        fingerprint(shapes)
    assert torch.equal(shapes.tokenize(["a dog"]), backbone.tokenize(["a dog"]))


def test_a_model_without_weights_looks_for_its_tokenizer_when_it_is_needed(on_meta: Build) -> None:
    backbone = on_meta("beit3-base")
    with pytest.raises(NotFoundError, match="`tokenizer` of beit3-base is not on this machine"):
        backbone.tokenize(["a dog"])


def test_a_model_of_the_official_sizes_is_built_in_seconds_without_weights(on_meta: Build) -> None:
    backbone = on_meta("beit3-large-384")
    assert backbone.encode_image(torch.empty(1, 3, 384, 384, device="meta")).shape == (1, 1024)
    assert backbone.encode_text(torch.zeros(2, 64, dtype=torch.int64, device="meta")).shape == (2, 1024)


def test_every_tensor_of_a_folders_file_is_in_the_model(
    backbone: Beit3Backbone, random_model: Callable[..., Beit3Retrieval]
) -> None:
    assert holds(backbone, random_model().state_dict())


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused_when_the_model_is_built(
    write_beit3: Callable[..., Path], random_model: Callable[..., Beit3Retrieval], build: Build, tmp_path: Path
) -> None:
    folder = write_beit3(tmp_path / "few", random_model(vocabulary=20).state_dict(), vocabulary=20)
    with pytest.raises(IncompatibleError, match="this tokenizer is not that of") as error:
        build(folder)
    assert "20 rows" in (error.value.why or "")
    assert error.value.fix == "put the model's own beit3.spm there"


def test_captions_are_as_long_as_the_position_table_lets_them_be(
    write_beit3: Callable[..., Path], random_model: Callable[..., Beit3Retrieval], build: Build, tmp_path: Path
) -> None:
    folder = write_beit3(tmp_path / "short", random_model(text_positions=12).state_dict(), text_positions=12)
    backbone = build(folder)
    tokens = backbone.tokenize(["a dog " * 30])
    assert tokens.shape == (1, backbone.context_length) == (1, 10)
    assert backbone.encode_text(tokens).isfinite().all()
