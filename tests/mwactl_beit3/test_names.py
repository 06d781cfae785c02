"""What users may call a BEiT-3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mwactl.backbone import find_spec
from mwactl.errors import ExitCode, NotFoundError
from mwactl_beit3 import names, plugin

SHORT = ["beit3-base", "beit3-base-384", "beit3-base-480", "beit3-large", "beit3-large-384", "beit3-large-480"]


def test_every_size_has_a_short_name() -> None:
    assert [spec.name for spec in plugin.specs()] == SHORT
    for spec in plugin.specs():
        assert find_spec(spec.name) == (plugin, spec)
        assert (spec.family, spec.default_weights, spec.licence) == ("beit3", "itc", "MIT")
        pixels = spec.name.rpartition("-")[2] if spec.name[-1].isdigit() else "224"
        assert f"{pixels} px" in spec.summary


@pytest.mark.parametrize("size", ["base", "large"])
def test_the_files_are_the_published_ones(size: str) -> None:
    _, spec = find_spec(f"beit3-{size}-384")
    assert {file.tag: file.filename for file in spec.files} == {
        "itc": f"beit3_{size}_itc_patch16_224.pth",
        "pretrained": f"beit3_{size}_patch16_224.pth",
        "indomain": f"beit3_{size}_indomain_patch16_224.pth",
        "coco": f"beit3_{size}_patch16_384_coco_retrieval.pth",
        "f30k": f"beit3_{size}_patch16_384_f30k_retrieval.pth",
    }
    assert spec.tokenizer is not None
    for file in (*spec.files, spec.tokenizer):
        assert file.url.startswith("https://")
        assert file.url.endswith(f"/{file.filename}")
        assert file.summary
    assert spec.tokenizer.filename == "beit3.spm"
    assert spec.tokenizer.sha256 == "6f5e2fefcf793761a76a6bfb8ad35489f9c203b25557673284b6d032f41043f4"


@pytest.mark.parametrize(("name", "same"), [("beit3-base-224", "beit3-base"), ("beit3-large-224", "beit3-large")])
def test_the_usual_size_may_be_said(name: str, same: str) -> None:
    assert find_spec(name) == find_spec(same)


def test_a_folder_is_named_by_its_absolute_path(tiny_beit3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_beit3.parent)
    found, spec = find_spec(f"beit3:local-dir:{tiny_beit3.name}")
    assert found is plugin
    assert spec.name == f"beit3:local-dir:{tiny_beit3.resolve()}"
    assert spec.default_weights is None
    assert spec.tokenizer is not None
    assert spec.tokenizer.sha256 is None
    monkeypatch.setenv("HOME", str(tiny_beit3.parent))
    assert find_spec(f"beit3:local-dir:~/{tiny_beit3.name}")[1] == spec


def test_a_folders_tokenizer_is_shown_where_it_lies(mwactl_cli, tiny_beit3: Path) -> None:
    shown = mwactl_cli("backbones", "show", f"beit3:local-dir:{tiny_beit3}")
    assert "tokenizer: beit3.spm (here)" in shown.stdout
    assert "licence" not in shown.stdout


@pytest.mark.parametrize(("made", "why"), [(True, "it has no config.json"), (False, "there is no such folder")])
def test_a_folder_without_a_model_is_not_found(tmp_path: Path, made: bool, why: str) -> None:
    folder = tmp_path / "model"
    if made:
        folder.mkdir()
    with pytest.raises(NotFoundError) as raised:
        find_spec(f"beit3:local-dir:{folder}")
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert (raised.value.why, raised.value.where) == (why, str(folder))
    assert "config.json" in (raised.value.fix or "")


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("beit3-bsae", "`beit3-base`"),
        ("beit3-larg-384", "`beit3-large-384`"),
        ("beit3-base-512", "`beit3-base-"),
        ("beit3-large-384-224", "`beit3-large-384`"),
        ("beit3", "`beit3-base`"),
    ],
)
def test_an_unknown_name_is_not_found_with_close_names(name: str, close: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        find_spec(name)
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert close in str(raised.value)


@pytest.mark.parametrize("name", ["beit3:", "beit3:base", "beit3:hf-hub:some/model"])
def test_a_name_after_a_colon_is_a_folder(name: str) -> None:
    with pytest.raises(NotFoundError, match=f"no backbone named `{name}`") as raised:
        find_spec(name)
    assert "beit3:local-dir:FOLDER" in (raised.value.fix or "")


def test_names_of_other_families_are_left_to_them() -> None:
    for name in ("clip-vit-b-32", "vlmo:local-dir:x", "beit3x:local-dir:x", "beit", "clip-224"):
        assert plugin.parse(name) is None


def test_sizes_are_those_of_the_papers_models() -> None:
    facts = {
        name: (size.width, size.layers, size.heads, size.hidden, size.image_size, size.patches)
        for name, size in names.SIZES.items()
    }
    assert facts == {
        "beit3-base": (768, 12, 12, 3072, 224, 196),
        "beit3-base-384": (768, 12, 12, 3072, 384, 576),
        "beit3-base-480": (768, 12, 12, 3072, 480, 900),
        "beit3-large": (1024, 24, 16, 4096, 224, 196),
        "beit3-large-384": (1024, 24, 16, 4096, 384, 576),
        "beit3-large-480": (1024, 24, 16, 4096, 480, 900),
    }
    assert {(size.vocabulary, size.text_positions, size.patch) for size in names.SIZES.values()} == {(64010, 1024, 16)}


def test_importing_the_plugin_imports_no_torch(tiny_beit3: Path) -> None:
    code = (
        "import sys, mwactl_beit3; mwactl_beit3.plugin.specs();"
        f"mwactl_beit3.plugin.parse('beit3:local-dir:{tiny_beit3}');"
        "print({'torch', 'sentencepiece', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
