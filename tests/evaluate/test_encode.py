from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mwactl.data import CaptionedImages
from mwactl.evaluate.encode import Embeddings, encode_split

CAPTIONS = (
    "a long caption about a red cat",
    "dog",
    "an owl",
    "a very long caption about nothing at all",
    "cat",
    "a fox",
)


class Encoder:
    """Two linear towers over pixels and over letters; remembers what it was asked to encode."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image_weight = torch.randn(3 * 4 * 4, 5, generator=generator)
        self.text_weight = torch.randn(64, 5, generator=generator)
        self.pixels: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.modes: set[bool] = set()

    def encode_image(self, pixels: Tensor) -> Tensor:
        self.pixels.append(pixels)
        self.modes.add(torch.is_inference_mode_enabled())
        return 3 * pixels.flatten(1) @ self.image_weight

    def encode_text(self, tokens: Tensor) -> Tensor:
        self.tokens.append(tokens)
        self.modes.add(torch.is_inference_mode_enabled())
        return tokens.float() @ self.text_weight


def transform(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def tokenize(captions: Sequence[str]) -> Tensor:
    return torch.tensor([list(caption.encode().ljust(64, b"\0")) for caption in captions])


@pytest.fixture
def dataset(tmp_path: Path) -> CaptionedImages:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    rng = np.random.default_rng(0)
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)).save(path)
    pairs = np.array([[0, 0], [1, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
    return CaptionedImages("tiny", "test", tuple(paths), CAPTIONS, pairs)


def encode(model: Encoder, dataset: CaptionedImages, batch_size: int = 2, **options) -> Embeddings:
    return encode_split(
        model, dataset, transform=transform, tokenize=tokenize, batch_size=batch_size, workers=0, **options
    )


def one_by_one(dataset: CaptionedImages) -> tuple[np.ndarray, np.ndarray]:
    model = Encoder()
    images = torch.cat([model.encode_image(transform(Image.open(path))[None]) for path in dataset.images])
    texts = torch.cat([model.encode_text(tokenize([caption])) for caption in dataset.captions])
    return tuple((rows / rows.norm(dim=1, keepdim=True)).numpy() for rows in (images, texts))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_it_gives_what_encoding_one_by_one_gives_in_the_splits_order(dataset: CaptionedImages, batch_size: int):
    found = encode(Encoder(), dataset, batch_size)
    images, texts = one_by_one(dataset)
    assert np.allclose(found.images, images, atol=1e-6)
    assert np.allclose(found.texts, texts, atol=1e-6)


def test_rows_are_fp32_and_have_length_one(dataset: CaptionedImages):
    found = encode(Encoder(), dataset)
    for rows, count in ((found.images, 5), (found.texts, 6)):
        assert rows.shape == (count, 5)
        assert rows.dtype == np.float32
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_every_picture_and_caption_is_encoded_exactly_once(dataset: CaptionedImages):
    model = Encoder()
    encode(model, dataset)
    shown = torch.cat(model.pixels)
    assert torch.equal(shown, torch.stack([transform(Image.open(path)) for path in dataset.images]))
    read = sorted(bytes(row).rstrip(b"\0").decode() for row in torch.cat(model.tokens).tolist())
    assert read == sorted(CAPTIONS)
    assert [len(batch) for batch in model.pixels] == [2, 2, 1]


def test_captions_of_about_the_same_length_share_a_batch(dataset: CaptionedImages):
    model = Encoder()
    encode(model, dataset)
    lengths = [[int((row != 0).sum()) for row in batch] for batch in model.tokens]
    assert lengths == [[3, 3], [5, 6], [30, 40]]


def test_no_gradients_are_kept(dataset: CaptionedImages):
    model = Encoder()
    encode(model, dataset)
    assert model.modes == {True}


def test_bf16_computes_the_towers_in_bf16_and_normalises_in_fp32(dataset: CaptionedImages):
    model, types = Encoder(), set()
    tower = model.encode_image

    def note(pixels: Tensor) -> Tensor:
        embedding = tower(pixels)
        types.add(embedding.dtype)
        return embedding

    model.encode_image = note  # type: ignore[method-assign]
    found = encode(model, dataset, precision="bf16")
    assert types == {torch.bfloat16}
    assert np.allclose(np.linalg.norm(found.images, axis=1), 1, atol=1e-6)
    assert np.allclose(found.images, one_by_one(dataset)[0], atol=0.03)


def test_progress_counts_pictures_and_captions(dataset: CaptionedImages):
    seen: list[tuple[str, int, list[int]]] = []

    class Counting:
        def info(self, message: str) -> None: ...
        def warn(self, message: str) -> None: ...

        def progress(self, label: str, total: int, *, done: int = 0):
            steps: list[int] = []
            seen.append((label, total, steps))

            class One:
                def advance(self, count: int = 1, *, note: str = "") -> None:
                    steps.append(count)

                def close(self) -> None:
                    steps.append(0)

            return One()

    encode(Encoder(), dataset, reporter=Counting())
    assert seen == [("pictures", 5, [2, 2, 1, 0]), ("captions", 6, [2, 2, 2, 0])]
