"""Training the tiny model, in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mwactl.config import load_recipe
from mwactl.registry import Registry
from mwactl.workflow.train import Trained, train_recipe


class Listener:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(f"warning: {message}")

    def progress(self, label: str, total: int, *, done: int = 0) -> Any:
        from mwactl.progress import Silent

        return Silent().progress(label, total, done=done)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def registry(empty_home: Path) -> Registry:
    return Registry.default()


@pytest.fixture
def train(tiny_recipe: Path) -> Callable[..., Trained]:
    """Train the tiny recipe with some `option=value` changes."""

    def run(*overrides: str, **options: Any) -> Trained:
        loaded = load_recipe(str(tiny_recipe), overrides)
        return train_recipe(Registry.default(), loaded, resume_command="mwactl train tiny.yaml --resume", **options)

    return run


@pytest.fixture
def copied_pictures(tmp_path: Path, tiny_pictures: Path) -> Path:
    """The tiny data set in a folder of its own, to be changed."""
    return Path(shutil.copytree(tiny_pictures, tmp_path / "copied-pictures"))


@pytest.fixture
def resplit() -> Callable[[Path, dict[str, str]], None]:
    """Change the split of some pictures, and forget all other pictures."""

    def change(folder: Path, splits: dict[str, str]) -> None:
        document = json.loads((folder / "dataset.json").read_text())
        document["images"] = [
            image | {"split": splits[image["filename"]]} for image in document["images"] if image["filename"] in splits
        ]
        (folder / "dataset.json").write_text(json.dumps(document))

    return change
