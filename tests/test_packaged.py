from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from mwactl.errors import NotFoundError
from mwactl.packaged import templates


def test_the_model_card_and_the_recipes_are_among_the_files_of_the_package() -> None:
    names = {file.name for file in templates().iterdir()}
    assert {"card.md", "coco.yaml"} <= names


def test_an_installation_without_them_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "mwactl"
    package.mkdir(parents=True)
    monkeypatch.setattr(resources, "files", lambda name: package)
    with pytest.raises(NotFoundError, match="missing"):
        templates()
