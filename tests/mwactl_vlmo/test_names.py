"""What can be named, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mwactl.backbone import all_specs, find_spec
from mwactl.errors import ExitCode, IncompatibleError, NotFoundError
from mwactl.files import sha256_file
from mwactl_vlmo import names, plugin
from mwactl_vlmo.sizes import BASE_PLUS, VlmoConfig


def test_three_sizes_at_two_picture_sizes_are_listed() -> None:
    assert [spec.name for spec in plugin.specs()] == [
        "vlmo-base", "vlmo-base-384", "vlmo-base-plus", "vlmo-base-plus-384", "vlmo-large", "vlmo-large-384",
    ]  # fmt: skip
    assert set(plugin.specs()) <= set(all_specs())
    for spec in plugin.specs():
        config = names.config_of(spec)
        config.check()
        assert config.image_size == (384 if spec.name.endswith("384") else 224)
        assert config.relative_positions == config.layer_scale == ("plus" not in spec.name)


def test_official_files_are_known_by_tag() -> None:
    _, spec = find_spec("vlmo-base-plus-384")
    assert spec.default_weights == "pretrained"
    assert spec.licence == "MIT"
    assert {file.tag: file.filename for file in spec.files} == {
        "pretrained": "vlmo_base_plus_patch16_224.pt",
        "coco": "vlmo_base_plus_patch16_384_coco.pt",
        "f30k": "vlmo_base_plus_patch16_384_f30k.pt",
    }
    release = "https://github.com/wenhui0924/vlmo_ckpts/releases/download/vlmo/"
    assert all(file.url == release + file.filename for file in spec.files)
    assert spec.tokenizer is None


def test_224_may_be_said() -> None:
    assert find_spec("vlmo-base-plus-224")[1] == find_spec("vlmo-base-plus")[1]
    assert plugin.parse("vlmo-huge-224") is None
    assert plugin.parse("clip:ViT-B-32") is None


def test_the_vocabulary_in_the_package_is_berts() -> None:
    assert sha256_file(names.VOCABULARY) == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    assert names.vocabulary_of(find_spec("vlmo-base")[1]) == names.VOCABULARY


def test_a_folder_is_named_by_its_whole_path(
    tmp_path: Path, write_vlmo: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_vlmo(tmp_path / "mine", None, "absolute")
    monkeypatch.chdir(tmp_path)
    _, spec = find_spec("vlmo:local-dir:mine")
    assert spec.name == f"vlmo:local-dir:{folder}"
    assert not names.config_of(spec).relative_positions
    assert names.vocabulary_of(spec) == folder / "vocab.txt"
    (folder / "vocab.txt").unlink()
    assert names.vocabulary_of(spec) == names.VOCABULARY


@pytest.mark.parametrize(("name", "what"), [("vlmo:local-dir:/no/such", "no model in"), ("vlmo:base", "no backbone")])
def test_what_is_not_there_is_not_found(name: str, what: str) -> None:
    with pytest.raises(NotFoundError, match=what) as raised:
        find_spec(name)
    assert raised.value.exit_code == ExitCode.NOT_FOUND
    assert "vlmo:local-dir:FOLDER" in (raised.value.fix or "")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"width": 0}, "`width` must be a positive number, not 0"),
        ({"heads": 4.0}, "`heads` must be a positive number, not 4.0"),
        ({"first_joint_block": -1}, "`first_joint_block`"),
        ({"relative_positions": 1}, "`relative_positions` must be true or false, not 1"),
        ({"heads": 5}, "`width` must be a multiple of `heads`"),
        ({"image_size": 70}, "`image_size` must be a multiple of `patch`"),
        ({"text_length": 2}, "`text_length` leaves no room for a caption"),
        ({"text_length": 21}, "`text_length` must not exceed `bias_text_length`"),
        ({"depth": 3}, "there is no size called `depth`"),
    ],
)
def test_sizes_of_which_no_model_can_be_made_are_refused(
    tmp_path: Path, write_vlmo: Callable[..., Path], change: dict[str, Any], why: str
) -> None:
    folder = write_vlmo(tmp_path, None, **change)
    with pytest.raises(IncompatibleError, match="not a VLMo configuration") as raised:
        names.config_of(find_spec(f"vlmo:local-dir:{folder}")[1])
    assert raised.value.where == str(folder / "config.json")
    assert why in (raised.value.why or "")


def test_a_folder_with_a_broken_configuration_is_incompatible(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(IncompatibleError, match="not a VLMo configuration"):
        names.config_of(find_spec(f"vlmo:local-dir:{tmp_path}")[1])


def test_a_long_text_needs_no_bias_rows_where_there_is_no_bias() -> None:
    VlmoConfig(**asdict(BASE_PLUS) | {"text_length": 300}).check()
    assert json.loads(json.dumps(asdict(BASE_PLUS))) == asdict(BASE_PLUS)
