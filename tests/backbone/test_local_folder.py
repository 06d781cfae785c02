"""Models in folders of the user's own: what a name means, and what its configuration says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mwactl.backbone.local_folder import folder_of, load_config, spec_of_folder
from mwactl.backbone.spec import OfficialFile
from mwactl.errors import ExitCode, IncompatibleError, NotFoundError


@dataclass(frozen=True)
class Sizes:
    width: int
    layers: int
    patch: int = 16

    def check(self) -> None:
        if self.width % 2:
            raise ValueError("`width` must be even")


def config(folder: Path, content: str | bytes) -> Path:
    (folder / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_folders_spec_is_its_absolute_path_with_a_tokenizer_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(tmp_path, "{}")
    monkeypatch.chdir(tmp_path.parent)
    pieces = OfficialFile("tokenizer", "towers.spm", "https://example.org/towers.spm", sha256="0" * 64)
    spec = spec_of_folder(f"towers:local-dir:{tmp_path.name}", "towers", pieces)
    assert spec is not None
    assert (spec.name, spec.family) == (f"towers:local-dir:{tmp_path}", "towers")
    assert folder_of(spec) == tmp_path
    assert spec.tokenizer == OfficialFile("tokenizer", "towers.spm", "")
    assert spec_of_folder(spec.name, "towers") is not None
    assert spec_of_folder(spec.name, "tower") is None


@pytest.mark.parametrize("name", ["towers:", "towers:base", "towers:local-dir:nowhere"])
def test_a_name_of_the_family_that_means_no_model_is_not_found(name: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        spec_of_folder(name, "towers")
    assert "towers:local-dir:FOLDER" in (raised.value.fix or "")


def test_a_configuration_may_leave_out_what_is_usual(tmp_path: Path) -> None:
    assert load_config(config(tmp_path, '{"width": 4, "layers": 2}'), Sizes, "Towers") == Sizes(4, 2)
    assert load_config(config(tmp_path, '{"width": 4, "layers": 2, "patch": 8}'), Sizes, "Towers").patch == 8


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "Expecting property name"),
        (b"\xff", "can't decode byte"),
        ("[]", "it holds no JSON object"),
        ('"width"', "it holds no JSON object"),
        ("{}", "it lacks width, layers"),
        ('{"layers": 2}', "it lacks width"),
        ('{"width": 4, "layers": 2, "depth": 3}', "there is no size called `depth`"),
        ('{"width": 5, "layers": 2}', "`width` must be even"),
    ],
)
def test_what_is_no_configuration_is_incompatible_and_the_error_says_what_belongs_there(
    tmp_path: Path, content: str | bytes, why: str
) -> None:
    with pytest.raises(IncompatibleError, match="not a Towers configuration") as raised:
        load_config(config(tmp_path, content), Sizes, "Towers")
    assert raised.value.exit_code == ExitCode.INCOMPATIBLE
    assert raised.value.where == str(tmp_path / "config.json")
    assert why in (raised.value.why or "")
    assert raised.value.fix == "write a JSON object with the model's own width, layers into it"
