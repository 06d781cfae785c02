"""What users may call a CLIP model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import open_clip
import pytest

from mwactl.backbone import WeightsRequest, find_spec
from mwactl.errors import ExitCode, NotFoundError
from mwactl_clip import names, plugin


def test_every_short_name_is_an_open_clip_model_with_its_default_weights() -> None:
    public = [spec for spec in names.SHORT_NAMES if not spec.model.startswith(names.LOCAL_DIR)]
    assert len({spec.name for spec in public}) == len(public) > 10
    for spec in public:
        assert spec.model in open_clip.list_models()
        assert spec.default_weights in open_clip.list_pretrained_tags_by_model(spec.model)
        assert find_spec(spec.name) == (plugin, spec)


@pytest.mark.parametrize(
    ("name", "model", "tag"),
    [("clip:ViT-B-32/openai", "ViT-B-32", "openai"), ("clip:RN50", "RN50", None), ("clip:RN50/", "RN50", None)],
)
def test_any_open_clip_model_has_a_name(name: str, model: str, tag: str | None) -> None:
    found, spec = find_spec(name)
    assert found is plugin
    assert (spec.name, spec.family, spec.model, spec.default_weights) == (name, "clip", model, tag)


def test_a_folder_is_named_by_its_absolute_path(native_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(native_folder.parent)
    _, spec = find_spec(f"clip:local-dir:{native_folder.name}")
    assert spec.name == f"clip:local-dir:{native_folder.resolve()}"
    monkeypatch.setenv("HOME", str(native_folder.parent))
    assert find_spec(f"clip:local-dir:~/{native_folder.name}")[1] == spec


@pytest.mark.parametrize(
    ("made", "why"), [(True, "it has no open_clip_config.json"), (False, "there is no such folder")]
)
def test_a_folder_without_a_model_is_not_found(tmp_path: Path, made: bool, why: str) -> None:
    folder = tmp_path / "model"
    if made:
        folder.mkdir()
    with pytest.raises(NotFoundError) as raised:
        find_spec(f"clip:local-dir:{folder}")
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert (raised.value.why, raised.value.where) == (why, str(folder))


def test_an_unknown_short_name_is_not_found_with_close_names() -> None:
    with pytest.raises(NotFoundError) as raised:
        find_spec("clip-vit-b-33")
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert "`clip-vit-b-32`" in (raised.value.why or "")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "close"), [("clip:ViT-B-33", "`ViT-B-32`"), ("clip:hf-hub:some/model", None), ("clip:", None)]
)
def test_an_unknown_model_is_not_found_with_close_names(name: str, close: str | None) -> None:
    _, spec = find_spec(name)
    for build in (plugin.build_without_weights, lambda spec: plugin.build(spec, WeightsRequest("random"))):
        with pytest.raises(NotFoundError, match="open_clip has no model") as raised:
            build(spec)
        assert raised.value.exit_code == ExitCode.NOT_FOUND
        assert close is None or close in (raised.value.why or "")


def test_names_of_other_families_are_left_to_them() -> None:
    assert plugin.parse("beit3-base") is None
    assert plugin.parse("clipper:x") is None


def test_importing_the_plugin_imports_no_torch() -> None:
    code = "import sys, mwactl_clip; mwactl_clip.plugin.specs(); print({'torch', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
