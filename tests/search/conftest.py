"""A model that sees colours, without torch: what is searched for by name is found by its colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mwactl.search import Embedded, EmbedOptions, SearchIndex, embed, open_index
from mwactl.search.item import Item
from mwactl.search.manifest import Manifest, Model
from mwactl.search.part import write_part

WORDS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0),
    "yellow": (255, 255, 0), "pink": (255, 150, 180), "grey": (120, 120, 120),
}  # fmt: skip


class FakeEncoder:
    """Mean colours, or the mean of the colours that a caption names, turned into rows of length one."""

    def __init__(self, identity: str = "1" * 64, preprocess_digest: str = "2" * 64, width: int = 16) -> None:
        self.identity = identity
        self.preprocess_digest = preprocess_digest
        self.width = width
        self.pictures = 0
        self.batches: list[int] = []
        self._turn = np.random.default_rng(0).standard_normal((4, width))

    def encode_images(self, images: Sequence[Image.Image | Path | str | bytes], batch_size: int = 32):
        for image in images:
            assert isinstance(image, Image.Image)
            assert image.mode == "RGB"
        self.pictures += len(images)
        self.batches.append(len(images))
        return self._rows([np.asarray(image).mean(axis=(0, 1)) for image in images])  # type: ignore[misc]

    def encode_texts(self, captions: Sequence[str], batch_size: int = 256):
        self.batches.append(len(captions))
        return self._rows([np.mean([WORDS[w] for w in c.split() if w in WORDS] or [(9, 9, 9)], 0) for c in captions])

    def _rows(self, colours):
        centred = np.array([[*(np.asarray(colour) / 127.5 - 1), 0.3] for colour in colours]).reshape(-1, 4)
        rows = centred @ self._turn
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def other_encoder() -> Callable[..., FakeEncoder]:
    """An encoder that differs in what is given."""
    return FakeEncoder


def paint(path: Path, colour: tuple[int, int, int] | str, size: tuple[int, int] = (12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture(name="paint")
def paint_fixture() -> Callable[..., Path]:
    """paint(path, colour): a picture of one colour."""
    return paint


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a picture for each colour, two of them deeper."""
    folder = tmp_path / "pictures"
    for i, (name, colour) in enumerate(WORDS.items()):
        paint(folder / ("deep/er" if i % 4 == 3 else ".") / f"{name}.png", colour)
    return folder


@pytest.fixture
def run(tmp_path: Path, encoder: FakeEncoder) -> Callable[..., Embedded]:
    """run(sources…): embed into `tmp_path/emb` with parts of three rows."""

    def run(*sources: Path, to: Path = tmp_path / "emb", by: FakeEncoder = encoder, **options) -> Embedded:
        options = {"rows_per_part": 3, "batch_size": 2} | options
        return embed(to, by, sources, reference="fake@1", options=EmbedOptions(**options))

    return run


@pytest.fixture
def colours(run: Callable[..., Embedded], pictures: Path, tmp_path: Path) -> Path:
    """The collection of all colours."""
    run(pictures)
    return tmp_path / "emb"


@pytest.fixture(scope="session")
def names() -> Callable[..., list[str]]:
    """names(index, hits): the ids that were found, best first, of one query."""

    def names(index: SearchIndex, hits, query: int = 0) -> list[str]:
        return [index.item(int(row)).id for row in hits.rows[query] if row >= 0]

    return names


def clustered(n: int, e: int, seed: int = 0):
    """[n, e] unit rows around n / 50 centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 50), e))
    rows = centres[rng.integers(len(centres), size=n)] + 0.7 * rng.standard_normal((n, e))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def collection(tmp_path: Path) -> Callable[..., SearchIndex]:
    """collection(vectors): a collection of these rows, whose ids are their numbers and whose field `n` too."""

    def make(vectors, *, part_rows: int = 500, folder: Path = tmp_path / "numbers", dtype: str = "float16"):
        folder.mkdir(exist_ok=True)
        manifest = Manifest(Model("fake@1", "i", "p"), vectors.shape[1], dtype, "images")  # type: ignore[arg-type]
        for start in range(0, len(vectors), part_rows):
            block = vectors[start : start + part_rows]
            items = [Item(str(i), f"/{i}.png", fields={"n": i}) for i in range(start, start + len(block))]
            name = f"part-{manifest.next_part:05}"
            manifest = manifest.with_part(write_part(folder, name, block.astype(dtype), items, {}))
        manifest.write(folder)
        return open_index(folder)

    return make
