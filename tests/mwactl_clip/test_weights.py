"""Where weights come from, and that nothing is fetched unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mwactl.backbone import find_spec
from mwactl.errors import ExitCode, MwactlError, NotFoundError
from mwactl.progress import Silent
from mwactl_clip import weights
from mwactl_clip.backbone import ClipBackbone
from mwactl_clip.weights import find_weights, network

Build = Callable[..., ClipBackbone]


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    """No cached weights, no network."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("empty_caches")
@pytest.mark.parametrize("name", ["clip-vit-b-32", "clip:RN50/yfcc15m", "clip:ViT-B-32/openai"])
def test_weights_that_are_not_here_say_how_to_get_them(build: Build, name: str) -> None:
    with pytest.raises(NotFoundError, match="are not on this machine") as raised:
        build(name)
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    for option in ("--download", "--weights FILE", "--weights random"):
        assert option in (raised.value.fix or "")


@pytest.mark.usefixtures("empty_caches")
def test_a_model_without_default_weights_asks_for_some(build: Build) -> None:
    with pytest.raises(NotFoundError, match="clip:RN50 needs weights") as raised:
        build("clip:RN50")
    assert "openai" in (raised.value.why or "")
    assert "--weights FILE" in (raised.value.fix or "")


@pytest.mark.usefixtures("empty_caches")
@pytest.mark.parametrize("source", ["no-such-tag", "missing.safetensors"])
def test_an_unknown_tag_or_file_is_not_found(build: Build, native_folder: Path, source: str) -> None:
    with pytest.raises(NotFoundError, match=f"no weights named `{source}`"):
        build("clip-vit-b-32", source)
    with pytest.raises(NotFoundError, match=f"no weights file `{source}`"):
        build(native_folder, source)


def test_a_folder_without_weights_says_which_files_it_looked_for(
    tmp_path: Path, native_folder: Path, build: Build
) -> None:
    config = (native_folder / "open_clip_config.json").read_bytes()
    (tmp_path / "open_clip_config.json").write_bytes(config)
    with pytest.raises(NotFoundError, match="no weights in this folder") as raised:
        build(tmp_path)
    assert "open_clip_model.safetensors" in (raised.value.why or "")
    build(tmp_path, native_folder / "open_clip_model.safetensors")


def test_the_hub_is_asked_for_cached_files_only_unless_downloads_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []
    found = tmp_path / "open_clip_pytorch_model.bin"

    def download(repository: str, filename: str, *, local_files_only: bool) -> str:
        asked.append((filename, local_files_only))
        if filename.endswith(".safetensors"):
            raise LocalEntryNotFoundError("not cached")
        return str(found)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    _, spec = find_spec("clip-vit-b-32")
    for allowed in (False, True):
        asked.clear()
        assert find_weights(spec, spec.default_weights, download=allowed) == found
        assert asked == [("open_clip_model.safetensors", not allowed), ("open_clip_pytorch_model.bin", not allowed)]


def test_a_download_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path))
    _, spec = find_spec("clip-vit-b-32")
    told: list[str] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "info", told.append)
    for download in (False, True):
        find_weights(spec, spec.default_weights, download=download, reporter=reporter)
        assert [line.startswith("fetching `laion2b_s34b_b79k`") for line in told] == [True] * download


@pytest.mark.parametrize("error", [OSError("disk full"), LocalEntryNotFoundError("offline")])
def test_a_download_that_fails_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", download)
    _, spec = find_spec("clip-vit-b-32")
    with pytest.raises(MwactlError, match="could not be downloaded") as raised:
        find_weights(spec, spec.default_weights, download=True)
    assert raised.value.exit_code == ExitCode.FAILED
    assert raised.value.why == str(error)


@pytest.mark.parametrize("before", [True, False])
def test_the_network_switch_is_off_inside_and_put_back_after_an_error(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)
    with pytest.raises(RuntimeError), network(allowed=False):
        assert constants.HF_HUB_OFFLINE
        raise RuntimeError
    assert before == constants.HF_HUB_OFFLINE
    with network(allowed=True):
        assert before == constants.HF_HUB_OFFLINE  # a user's own HF_HUB_OFFLINE=1 wins


@pytest.mark.parametrize("source", [None, "openai"])
def test_pull_fetches_the_tag_and_what_a_build_needs_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str | None
) -> None:
    asked: list[tuple[str, bool]] = []
    online: list[bool] = []

    def download(repository: str, filename: str, *, local_files_only: bool) -> str:
        asked.append((repository, local_files_only))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(
        "open_clip.get_tokenizer", lambda _: online.append(not huggingface_hub.constants.HF_HUB_OFFLINE)
    )
    plugin, spec = find_spec("clip-vit-b-32")
    assert plugin.pull(spec, source, Silent()) == [tmp_path / "open_clip_model.safetensors"]
    owner = "timm" if source == "openai" else "laion"
    assert [(repository.partition("/")[0], local) for repository, local in asked] == [(owner, False)]
    assert online == [True]


def test_pull_fetches_a_text_towers_configuration_too(monkeypatch: pytest.MonkeyPatch, hf_folder: Path) -> None:
    from transformers import AutoConfig

    online: list[bool] = []
    real = AutoConfig.from_pretrained

    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        online.append(not huggingface_hub.constants.HF_HUB_OFFLINE)
        return real(*arguments, **options)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    plugin, spec = find_spec(f"clip:local-dir:{hf_folder}")
    plugin.build_without_weights(spec)
    assert set(online) == {False}
    online.clear()
    with pytest.raises(NotFoundError, match="has no default weights"):
        plugin.pull(spec, None, Silent())
    assert online == []
    monkeypatch.setattr(weights, "pull_weights", lambda *_: hf_folder)
    plugin.pull(spec, None, Silent())
    assert set(online) == {True}


@pytest.mark.usefixtures("empty_caches")
@pytest.mark.parametrize("source", ["no-such-tag", "random"])
def test_pull_of_what_is_not_published_names_the_tags_and_asks_nobody(source: str) -> None:
    plugin, spec = find_spec("clip-vit-b-32")
    with pytest.raises(NotFoundError, match=f"nothing is published as `{source}` of clip-vit-b-32") as raised:
        plugin.pull(spec, source, Silent())
    assert "laion2b_s34b_b79k" in (raised.value.why or "")


def test_a_pull_that_fails_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", download)
    plugin, spec = find_spec("clip-vit-b-32")
    with pytest.raises(MwactlError, match="could not be downloaded") as raised:
        plugin.pull(spec, None, Silent())
    assert raised.value.exit_code == ExitCode.FAILED
