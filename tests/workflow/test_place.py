"""Where a backbone lies is remembered beside an adapter, not in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mwactl.backbone import WeightsRequest
from mwactl.config.recipe import MethodConfig
from mwactl.errors import NotFoundError
from mwactl.registry import Entry, Registry
from mwactl.workflow.inject import inject_adapter
from mwactl.workflow.load import load_adapted
from mwactl.workflow.place import Place, portable_name, recall


def injected(registry: Registry, folder: Path, weights: str | None = None) -> Entry:
    name = f"clip:local-dir:{folder}"
    made = inject_adapter(registry, name, MethodConfig(), name="mine", weights=WeightsRequest(weights))
    assert made.entry is not None
    return made.entry


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("clip-vit-b-32", "clip-vit-b-32"),
        ("clip:ViT-B-32/openai", "clip:ViT-B-32/openai"),
        ("clip:local-dir:/a/b/my-clip", "clip:local-dir:my-clip"),
        ("beit3:local-dir:/a/tiny", "beit3:local-dir:tiny"),
    ],
)
def test_a_portable_name_has_no_folder_above_the_models(name: str, portable: str):
    assert portable_name(name) == portable


def test_the_same_adapter_has_the_same_digest_wherever_its_backbone_lies(
    registry: Registry, tiny_clip: Path, tmp_path: Path
):
    for place in ("one", "other"):
        shutil.copytree(tiny_clip, tmp_path / place / "my-clip")
    entry = injected(registry, tmp_path / "one" / "my-clip")
    assert str(tmp_path) not in json.dumps(entry.manifest)
    elsewhere = Registry(tmp_path / "second-registry")
    assert injected(elsewhere, tmp_path / "other" / "my-clip").digest == entry.digest
    assert recall(registry, entry).backbone == f"clip:local-dir:{tmp_path}/one/my-clip"


def test_a_folder_that_has_moved_is_asked_for_and_remembered_where_it_is_said(
    mwactl_cli, registry: Registry, tiny_clip: Path, tiny_data: str, tmp_path: Path
):
    shutil.copytree(tiny_clip, tmp_path / "my-clip")
    entry = injected(registry, tmp_path / "my-clip")
    moved = (tmp_path / "my-clip").rename(tmp_path / "moved-clip")
    with pytest.raises(NotFoundError) as caught:
        load_adapted(registry, entry)
    assert "--backbone clip:local-dir:FOLDER" in str(caught.value.fix)

    result = mwactl_cli("eval", "mine", "--backbone", f"clip:local-dir:{moved}", "--data", tiny_data)
    assert result.code == 0, result.stderr
    assert recall(registry, entry) == Place(f"clip:local-dir:{moved}", str(moved / "open_clip_model.safetensors"))
    load_adapted(registry, entry)


def test_another_backbone_is_not_taken_for_the_one_that_moved(
    mwactl_cli, registry: Registry, tiny_clip: Path, tiny_data: str
):
    entry = injected(registry, tiny_clip)
    before = recall(registry, entry)
    result = mwactl_cli("eval", "mine", "--backbone", "clip-tiny-emoji", "--data", tiny_data)
    assert result.code == 4
    assert "made on another" in result.stderr
    assert recall(registry, entry) == before
