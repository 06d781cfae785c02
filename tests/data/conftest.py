"""Small captioned data sets, made where a test needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mwactl.data import CaptionedImages


@pytest.fixture
def picture() -> Callable[[Path], Path]:
    """Write a small picture whose colours depend on its name."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(path.name.encode().ljust(3, b"x")[:3])
        Image.new("RGB", (8, 6), colour).save(path)
        return path

    return write


@pytest.fixture
def karpathy(tmp_path: Path) -> Callable[..., Path]:
    """Write a Karpathy file from (filename, split, captions); `extra` goes into every picture's entry."""

    def write(pictures: Sequence[tuple[str, str, Sequence[str]]], **extra: Any) -> Path:
        images, number = [], 0
        for filename, split, captions in pictures:
            sentences = [{"raw": raw, "sentid": number + i, "tokens": []} for i, raw in enumerate(captions)]
            number += len(captions)
            images.append({"filename": filename, "split": split, "sentences": sentences, "imgid": 7, **extra})
        path = tmp_path / "dataset.json"
        path.write_text(json.dumps({"images": images, "dataset": "tiny"}))
        return path

    return write


@pytest.fixture
def many_to_many(tmp_path: Path) -> CaptionedImages:
    """Three pictures, three captions: a has 0 and 1, b has 1, c has 2."""
    images = tuple(tmp_path / name for name in ("a.png", "b.png", "c.png"))
    pairs = np.array([[0, 0], [0, 1], [1, 1], [2, 2]])
    return CaptionedImages("tiny", "train", images, ("a red cat", "an animal", "a car"), pairs)
