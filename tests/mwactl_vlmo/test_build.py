"""Building a model and loading checkpoints: every key accounted for, or an error that names it."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mwactl.adapter import inject
from mwactl.backbone.fingerprint import fingerprint
from mwactl.config.recipe import MethodConfig
from mwactl.errors import ExitCode, IncompatibleError, NotFoundError, VerificationError
from mwactl.files import sha256_file
from mwactl_vlmo.backbone import VlmoBackbone
from mwactl_vlmo.model import Vlmo

Build = Callable[..., VlmoBackbone]
RandomModel = Callable[..., Vlmo]
State = dict[str, Tensor]
HEADS = {"itc_text_proj.fc.weight", "itc_image_proj.fc.weight", "logit_scale"}


def weights_of(folder: Path) -> State:
    return safetensors.torch.load_file(folder / "model.safetensors")


def save(state: dict[str, Any], file: Path) -> Path:
    torch.save(state, file)
    return file


def test_every_tensor_of_the_file_is_in_the_model(backbone: VlmoBackbone, tiny_vlmo: Path) -> None:
    saved, loaded = weights_of(tiny_vlmo), backbone.model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert not any(tensor.is_meta for tensor in [*backbone.parameters(), *backbone.buffers()])
    file = tiny_vlmo / "model.safetensors"
    assert backbone.weights.as_dict() == {
        "source": "file", "path": str(file.resolve()), "file_sha256": sha256_file(file), "seed": None,
    }  # fmt: skip
    assert backbone.untrained_parameter_names() == set()


@pytest.mark.parametrize("container", ["state_dict", "module", "model", None])
def test_any_container_holds_the_same_model(
    tiny_vlmo: Path, tmp_path: Path, build: Build, container: str | None
) -> None:
    state = weights_of(tiny_vlmo)
    if container == "module":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    content = state if container is None else {container: state, "args": argparse.Namespace(lr=1), "epoch": 3}
    backbone = build(tiny_vlmo, save(content, tmp_path / "weights.pt"))
    assert fingerprint(backbone) == fingerprint(build(tiny_vlmo))


def test_half_precision_weights_become_fp32(tiny_vlmo: Path, tmp_path: Path, build: Build) -> None:
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights_of(tiny_vlmo).items()
    }
    loaded = build(tiny_vlmo, save(state, tmp_path / "half.pt")).model.state_dict()
    assert all(torch.equal(loaded[name], tensor.to(loaded[name].dtype)) for name, tensor in state.items())
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32, torch.int64}


def test_a_pretraining_file_gives_the_retrieval_model_and_its_other_heads_are_left_out(
    tiny_vlmo: Path, tmp_path: Path, kind: str, build: Build, random_model: RandomModel
) -> None:
    whole = random_model(kind, pretraining=True)
    index = torch.zeros(5, 5, dtype=torch.int64)
    indices = {f"{name}relative_position_index": index for name in ("", "text_", "text_imag_")}
    backbone = build(tiny_vlmo, save({"state_dict": whole.state_dict() | indices}, tmp_path / "weights.pt"))
    loaded, given = backbone.model.state_dict(), whole.state_dict()
    assert given.keys() - loaded.keys() == {
        "itm_score.fc.weight", "itm_score.fc.bias", "logit_vl_scale", "itc_vl_text_proj.fc.weight",
        "itc_vl_image_proj.fc.weight", "mlm_score.bias", "mlm_score.decoder.weight",
        "mlm_score.transform.dense.weight", "mlm_score.transform.dense.bias",
        "mlm_score.transform.LayerNorm.weight", "mlm_score.transform.LayerNorm.bias",
    }  # fmt: skip
    assert all(torch.equal(tensor, given[name]) for name, tensor in loaded.items())


def test_heads_that_a_file_lacks_are_trained_and_start_the_same_everywhere(
    tiny_vlmo: Path, tmp_path: Path, build: Build
) -> None:
    file = tmp_path / "headless.safetensors"
    safetensors.torch.save_file({n: t for n, t in weights_of(tiny_vlmo).items() if n not in HEADS}, file)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    backbone = build(tiny_vlmo, file)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert backbone.untrained_parameter_names() == {f"model.{name}" for name in HEADS}
    assert backbone.logit_scale.item() == pytest.approx(2.65926)
    assert 0.01 < backbone.model.itc_text_proj.fc.weight.std() < 0.03
    assert not torch.equal(backbone.model.itc_text_proj.fc.weight, backbone.model.itc_image_proj.fc.weight)
    torch.manual_seed(2)
    assert fingerprint(build(tiny_vlmo, file)) == fingerprint(backbone)
    trained = {name for name in inject(backbone, MethodConfig()).trainable() if name.startswith("backbone.")}
    assert trained == {f"backbone.model.{name}" for name in HEADS}


@torch.inference_mode()
def test_a_file_of_another_picture_size_is_resized(
    tmp_path: Path, kind: str, build: Build, write_vlmo: Callable[..., Path], random_model: RandomModel
) -> None:
    small, large = random_model(kind), write_vlmo(tmp_path, None, kind, image_size=96)
    backbone = build(large, save(small.state_dict(), tmp_path / "small.pt"))
    key = "relative_position_bias_table" if kind == "relative" else "transformer.pos_embed"
    changed = {
        name
        for name, tensor in backbone.model.state_dict().items()
        if tensor.shape != small.state_dict()[name].shape or not torch.equal(tensor, small.state_dict()[name])
    }
    assert changed == {key}
    assert backbone.encode_image(torch.zeros(1, 3, 96, 96)).isfinite().all()
    tokens = backbone.tokenize(["a dog"])
    expected = build(write_vlmo(tmp_path / "small", small.state_dict(), kind)).encode_text(tokens)
    torch.testing.assert_close(backbone.encode_text(tokens), expected)


def test_a_longer_text_table_is_cut_to_its_first_rows(
    tiny_vlmo: Path, tmp_path: Path, kind: str, build: Build, random_model: RandomModel
) -> None:
    long = random_model(kind, text_length=20)
    backbone = build(tiny_vlmo, save(long.state_dict(), tmp_path / "long.pt"))
    own = backbone.model.text_embeddings
    assert torch.equal(own.position_embeddings.weight, long.text_embeddings.position_embeddings.weight[:12])
    assert own.position_ids.tolist() == [list(range(12))]
    assert fingerprint(backbone) != fingerprint(build(tiny_vlmo))


def test_random_values_depend_on_the_seed_alone(tiny_vlmo: Path, build: Build) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build(tiny_vlmo, "random", seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert fingerprint(build(tiny_vlmo, "random", seed=3)) == fingerprint(first)
    assert fingerprint(build(tiny_vlmo, "random", seed=4)) != fingerprint(first)
    assert first.weights.as_dict() == {"source": "random", "path": None, "file_sha256": None, "seed": 3}
    assert first.untrained_parameter_names() == set()


def missing(state: State) -> None:
    del state["pooler.dense.bias"]


def surplus(state: State) -> None:
    state["mlm_score.surprise"] = torch.zeros(2)


def misshapen(state: State) -> None:
    state["transformer.blocks.1.attn.qkv.weight"] = torch.zeros(96, 16)


def odd_table(state: State) -> None:
    for name in state.keys() & {"relative_position_bias_table", "transformer.pos_embed"}:
        state[name] = torch.zeros(1, 16, 32) if "pos_embed" in name else torch.zeros(90, 12)


def short_text(state: State) -> None:
    state["text_embeddings.position_embeddings.weight"] = torch.zeros(11, 32)


def flat_ids(state: State) -> None:
    state["text_embeddings.position_ids"] = torch.arange(12)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (missing, "missing: pooler.dense.bias"),
        (surplus, "unexpected: mlm_score.surprise"),
        (misshapen, "transformer.blocks.1.attn.qkv.weight is [96, 16], the model's is [96, 32]"),
        (odd_table, "rows are not "),
        (flat_ids, "position_ids is [12] (int64), the model's is [1, 12] (int64)"),
        (short_text, "position_embeddings.weight is [11, 32], the model's is [12, 32]"),
    ],
)
def test_another_models_weights_are_incompatible_and_the_tensor_is_named(
    tiny_vlmo: Path, tmp_path: Path, build: Build, spoil: Callable[[State], None], named: str
) -> None:
    state = weights_of(tiny_vlmo)
    spoil(state)
    file = save({"model": state}, tmp_path / "weights.pt")
    with pytest.raises(IncompatibleError, match="these weights are not those of vlmo:local-dir:") as raised:
        build(tiny_vlmo, file)
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert named in (raised.value.why or "")
    assert raised.value.where == str(file)
    assert "--weights FILE" in (raised.value.fix or "")


def test_relative_and_absolute_models_are_not_each_other(
    tiny_vlmo: Path, tmp_path: Path, kind: str, build: Build, random_model: RandomModel
) -> None:
    other = random_model("absolute" if kind == "relative" else "relative").state_dict()
    with pytest.raises(IncompatibleError) as raised:
        build(tiny_vlmo, save(other, tmp_path / "other.pt"))
    assert "relative_position_bias_table" in (raised.value.why or "")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_truncated_file_is_refused(tiny_vlmo: Path, build: Build, name: str) -> None:
    file = tiny_vlmo / name
    if name == "model.pt":
        save(weights_of(tiny_vlmo), file)
        (tiny_vlmo / "model.safetensors").unlink()
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(VerificationError) as raised:
        build(tiny_vlmo)
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert raised.value.where == str(file)


class Exploit:
    """Unpickled without care, this writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "owned")


def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_none(
    tiny_vlmo: Path, tmp_path: Path, build: Build
) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(VerificationError):
        build(tiny_vlmo, save({"state_dict": weights_of(tiny_vlmo), "x": Exploit(trace)}, tmp_path / "weights.pt"))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["model.pt", "model.pth"])
def test_a_folders_torch_file_is_found(tiny_vlmo: Path, build: Build, name: str) -> None:
    expected = fingerprint(build(tiny_vlmo))
    save(weights_of(tiny_vlmo), tiny_vlmo / name)
    (tiny_vlmo / "model.safetensors").unlink()
    assert fingerprint(build(tiny_vlmo)) == expected


def test_a_folder_without_weights_says_so(tiny_vlmo: Path, build: Build) -> None:
    (tiny_vlmo / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="no weights in this folder") as raised:
        build(tiny_vlmo)
    assert raised.value.where == str(tiny_vlmo)
    with pytest.raises(NotFoundError, match="no weights named `coco`"):
        build(tiny_vlmo, "coco")


def test_official_weights_that_are_not_here_are_not_found_and_the_command_is_named(build: Build) -> None:
    with pytest.raises(NotFoundError) as raised:
        build("vlmo-base-384", "coco")
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert "mwactl backbones pull vlmo-base-384 --weights coco" in (raised.value.fix or "")


def test_a_vocabulary_that_is_larger_than_the_embedding_is_refused(tiny_vlmo: Path, build: Build) -> None:
    shutil.copy(tiny_vlmo / "vocab.txt", tiny_vlmo / "kept")
    (tiny_vlmo / "vocab.txt").unlink()
    with pytest.raises(IncompatibleError, match="is larger than its embedding") as raised:
        build(tiny_vlmo)
    assert raised.value.why == "30,522 words, 60 rows"
    assert "vocab.txt" in (raised.value.fix or "")


def test_a_loaded_model_computes_as_the_one_that_was_saved(
    tiny_vlmo: Path, build: Build, kind: str, random_model: RandomModel, pixels: Tensor
) -> None:
    model: nn.Module = random_model(kind)
    with torch.inference_mode():
        assert torch.equal(build(tiny_vlmo).encode_image(pixels), model.embed_pictures(pixels))  # type: ignore[operator]
