"""Building a model and loading its weights: the right ones, exactly, or an error that says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from torch import Tensor

from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.fingerprint import fingerprint
from mwactl.errors import ExitCode, IncompatibleError, NotFoundError
from mwactl.files import sha256_file
from mwactl_clip.backbone import ClipBackbone

Build = Callable[..., ClipBackbone]
WEIGHTS = "open_clip_model.safetensors"


def config_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "open_clip_config.json").read_text())
    return document


def test_every_tensor_of_the_file_is_in_the_model(backbone: ClipBackbone, folder: Path) -> None:
    saved = safetensors.torch.load_file(folder / WEIGHTS)
    loaded = backbone.model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_half_precision_weights_become_fp32(native_folder: Path, tmp_path: Path, build: Build) -> None:
    file = tmp_path / "half.safetensors"
    saved = {name: tensor.half() for name, tensor in safetensors.torch.load_file(native_folder / WEIGHTS).items()}
    safetensors.torch.save_file(saved, file)
    loaded = build(native_folder, file).model.state_dict()
    assert all(torch.equal(loaded[name], saved[name].float()) for name in saved)
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


@pytest.mark.parametrize("named", [True, False])
def test_what_was_loaded_is_recorded(native_folder: Path, build: Build, named: bool) -> None:
    file = native_folder / WEIGHTS
    used = build(native_folder, file if named else None).weights
    assert used.as_dict() == {
        "source": "file", "path": str(file.resolve()), "file_sha256": sha256_file(file), "seed": None,
    }  # fmt: skip


def test_a_file_under_the_home_directory_is_a_file(
    native_folder: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(native_folder))
    used = build(native_folder, f"~/{WEIGHTS}").weights
    assert used.source == "file"
    assert used.path == (native_folder / WEIGHTS).resolve()


def test_random_values_depend_on_the_seed_alone(folder: Path, build: Build) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build(folder, "random", seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert fingerprint(build(folder, "random", seed=3)) == fingerprint(first)
    assert fingerprint(build(folder, "random", seed=4)) != fingerprint(first)
    assert first.weights.as_dict() == {"source": "random", "path": None, "file_sha256": None, "seed": 3}


def missing(state: dict[str, Tensor]) -> None:
    del state["visual.proj"]


def surplus(state: dict[str, Tensor]) -> None:
    state["visual.surprise"] = torch.zeros(2)


def misshapen(state: dict[str, Tensor]) -> None:
    state["visual.proj"] = torch.zeros(8, 8)


@pytest.mark.parametrize(
    ("spoil", "named"), [(missing, "visual.proj"), (surplus, "visual.surprise"), (misshapen, "visual.proj")]
)
@pytest.mark.parametrize("container", ["safetensors", "pt"])
def test_another_models_weights_are_incompatible_and_the_tensor_is_named(
    native_folder: Path, tmp_path: Path, build: Build, spoil: Callable[..., None], named: str, container: str
) -> None:
    state = safetensors.torch.load_file(native_folder / WEIGHTS)
    spoil(state)
    file = tmp_path / f"weights.{container}"
    safetensors.torch.save_file(state, file) if container == "safetensors" else torch.save(state, file)
    with pytest.raises(IncompatibleError, match="these weights are not those of clip:local-dir:") as raised:
        build(native_folder, file)
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert named in (raised.value.why or "")
    assert raised.value.where == str(file)


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(_: bytes) -> bytes:
    return b""


def text(_: bytes) -> bytes:
    return b"these are not weights, but a text of some length"


@pytest.mark.parametrize("damage", [truncated, empty, text])
@pytest.mark.parametrize("container", ["safetensors", "pt", "bin"])
def test_a_damaged_weights_file_is_refused(
    native_folder: Path, tmp_path: Path, build: Build, damage: Callable[[bytes], bytes], container: str
) -> None:
    file = tmp_path / f"weights.{container}"
    if container != "safetensors":
        torch.save(safetensors.torch.load_file(native_folder / WEIGHTS), file)
    else:
        shutil.copy(native_folder / WEIGHTS, file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(IncompatibleError) as raised:
        build(native_folder, file)
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert raised.value.where == str(file)


class Exploit:
    """Unpickled without care, this writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "owned")


@pytest.mark.parametrize("content", ["exploit", "list", "empty"])
def test_a_pickle_that_is_no_state_dict_is_refused_and_runs_no_code(
    native_folder: Path, tmp_path: Path, build: Build, content: str
) -> None:
    file, trace = tmp_path / "weights.pt", tmp_path / "trace"
    torch.save({"exploit": {"a": Exploit(trace)}, "list": [1, 2], "empty": {}}[content], file)
    with pytest.raises(IncompatibleError):
        build(native_folder, file)
    assert not trace.exists()


@pytest.mark.usefixtures("no_network")
def test_a_text_tower_beside_the_configuration_is_found_from_anywhere_and_offline(
    hf_folder: Path, tmp_path: Path, build: Build, write_hf_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    here = fingerprint(build(hf_folder))
    decoy = write_hf_folder(tmp_path / "decoy", hidden_act="relu", num_hidden_layers=1)
    monkeypatch.chdir(decoy)
    backbone = build(hf_folder)
    assert fingerprint(backbone) == here
    assert len(backbone.sites(["text"])) == 2
    assert backbone.tokenize(["two dog"])[0, :4].tolist() == [2, 7, 8, 3]


@pytest.mark.usefixtures("no_network")
def test_a_text_tower_that_is_not_here_is_not_found_offline(hf_folder: Path, tmp_path: Path, build: Build) -> None:
    document = config_of(hf_folder)
    document["model_cfg"]["text_cfg"]["hf_model_name"] = "no-such-owner/no-such-model"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    with pytest.raises(NotFoundError, match="the text tower's configuration is not on this machine") as raised:
        build(tmp_path, "random")
    assert raised.value.where == "no-such-owner/no-such-model"
    assert "--download" in (raised.value.fix or "")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"model_cfg": {"embed_dim": 16}}',
        '{"model_cfg": {"embed_dim": 16, "vision_cfg": {"widht": 3}, "text_cfg": {}}}',
        '{"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}',
    ],
)
def test_a_folder_with_a_broken_configuration_is_incompatible(tmp_path: Path, build: Build, content: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(IncompatibleError, match="not an open_clip configuration") as raised:
        build(tmp_path, "random")
    assert raised.value.where == str(tmp_path / "open_clip_config.json")


@pytest.mark.parametrize(
    ("name", "quick_gelu", "mean", "resize_mode"),
    [
        ("clip-vit-b-32", False, 0.48145466, "shortest"),
        ("clip-vit-b-32-openai", True, 0.48145466, "shortest"),
        ("clip:ViT-B-32/openai", True, 0.48145466, "shortest"),
        ("siglip-vit-b-16", False, 0.5, "squash"),
    ],
)
def test_activation_and_preprocessing_belong_to_the_weights(
    on_meta: Build, name: str, quick_gelu: bool, mean: float, resize_mode: str
) -> None:
    backbone = on_meta(name)
    facts = backbone.architecture()
    assert facts["model"]["quick_gelu"] is quick_gelu
    kinds = {type(module).__name__ for module in backbone.modules()}
    assert ("QuickGELU" in kinds) == quick_gelu
    assert facts["preprocess"]["mean"][0] == mean
    assert facts["preprocess"]["resize_mode"] == resize_mode


def test_a_file_given_for_a_named_model_is_preprocessed_as_its_default_weights(
    native_folder: Path, build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = config_of(native_folder)["model_cfg"]
    monkeypatch.setattr("open_clip.get_model_config", lambda _: json.loads(json.dumps(tiny)))
    backbone = build("siglip-vit-b-16", native_folder / WEIGHTS)
    assert backbone.architecture()["preprocess"]["mean"] == (0.5, 0.5, 0.5)
    assert backbone.architecture()["preprocess"]["resize_mode"] == "squash"


@pytest.mark.parametrize("download", [True, False])
def test_a_download_brings_the_tokenizer_too(
    native_folder: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    offline: list[bool] = []
    monkeypatch.setattr("open_clip.get_tokenizer", lambda _: offline.append(huggingface_hub.constants.HF_HUB_OFFLINE))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    plugin, spec = find_spec(f"clip:local-dir:{native_folder}")
    plugin.build(spec, WeightsRequest(download=download))
    assert offline == ([False] if download else [])


def test_shapes_without_weights_are_those_of_the_model(on_meta: Build, folder: Path, backbone: ClipBackbone) -> None:
    shapes = on_meta(f"clip:local-dir:{folder}")
    assert all(parameter.is_meta for parameter in shapes.parameters())
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    assert {name: tensor.shape for name, tensor in shapes.state_dict().items()} == expected
    assert shapes.encode_image(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 16)
    assert shapes.encode_text(torch.zeros(3, 16, dtype=torch.int64, device="meta")).shape == (3, 16)
    assert shapes.weights.source == "none"
