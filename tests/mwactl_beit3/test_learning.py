"""Adapters learn: a tiny frozen BEiT-3 of random values tells the pairs that it was trained on apart."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mwactl.adapter import AdaptedModel, inject, strip
from mwactl.backbone.contract import unit_rows
from mwactl.config.recipe import MethodConfig, MwaConfig
from mwactl.evaluate.metrics import direction_metrics
from mwactl.evaluate.ranks import retrieval_ranks
from mwactl.train.loss import contrastive_loss
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.model import Beit3Retrieval

Build = Callable[..., Beit3Backbone]
METHOD = MethodConfig(mwa=MwaConfig(knowledge_extractor=16, alignment_enhancer=32), train_head=True)


def recall(model: AdaptedModel, pixels: Tensor, tokens: Tensor) -> tuple[float, float]:
    """R@1 of both directions, in percent."""
    with torch.inference_mode():
        image, text = unit_rows(model.encode_image(pixels)), unit_rows(model.encode_text(tokens))
    pairs = np.repeat(np.arange(len(image))[:, None], 2, axis=1)
    ranks = retrieval_ranks(image.numpy(), text.numpy(), pairs)
    return direction_metrics(ranks.image_to_text)["R@1"], direction_metrics(ranks.text_to_image)["R@1"]


def train(model: AdaptedModel, pixels: Tensor, tokens: Tensor, steps: int) -> None:
    """Every pair in every step."""
    model.train()
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2)
    ids = torch.arange(len(pixels))
    for _ in range(steps):
        image, text = unit_rows(model.encode_image(pixels)), unit_rows(model.encode_text(tokens))
        loss = contrastive_loss(image, text, model.backbone.logit_scale.exp(), ids, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def assert_learns(backbone: Beit3Backbone, pictures: list[Image.Image], captions: list[str], steps: int) -> None:
    assert len(set(captions)) == len(captions)
    transform = backbone.image_transform()
    pixels, tokens = torch.stack([transform(picture) for picture in pictures]), backbone.tokenize(captions)
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = inject(backbone, METHOD)
    assert max(recall(model, pixels, tokens)) < 20
    train(model, pixels, tokens, steps)
    assert recall(model, pixels, tokens) == (100, 100)
    heads = backbone.head_parameter_names()
    moved = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, frozen[name])}
    assert moved == heads
    strip(model)
    assert max(recall(model, pixels, tokens)) < 90  # the heads alone did not do it


def stripes(foreground: str, background: str, across: bool) -> Image.Image:
    """Six stripes."""
    picture = Image.new("RGB", (48, 48), background)
    for start in range(0, 48, 16):
        picture.paste(foreground, (0, start, 48, start + 8) if across else (start, 0, start + 8, 48))
    return picture


def test_generated_pictures_and_captions_are_told_apart(tiny_beit3: Path, build: Build) -> None:
    colours = {"red": "red", "green": "green", "blue": "blue", "grey": "grey", "dark": "black", "bright": "white"}
    pictures, captions = [], []
    for first, foreground in colours.items():
        for second, background in colours.items():
            for direction, across in (("left and right", True), ("top and bottom", False)):
                if first != second:
                    pictures.append(stripes(foreground, background, across))
                    captions.append(f"{first} stripe on {second} {direction}")
    assert_learns(build(tiny_beit3), pictures, captions, steps=80)


@pytest.mark.shared
def test_photographs_and_their_captions_are_told_apart(
    shared: Path,
    tmp_path: Path,
    write_beit3: Callable[..., Path],
    random_model: Callable[..., Beit3Retrieval],
    build: Build,
) -> None:
    folder = shared / "data" / "flickr8k"
    images = json.loads((folder / "dataset_flickr8k.json").read_text())["images"]
    chosen = random.Random(0).sample(images, 64)
    pictures = [Image.open(folder / "images" / image["filename"]).convert("RGB") for image in chosen]
    captions = [image["sentences"][0]["raw"] for image in chosen]
    sizes = {"width": 64, "hidden": 128, "image_size": 64, "vocabulary": 64_010}
    model = write_beit3(tmp_path / "model", random_model(**sizes).state_dict(), **sizes)
    (model / "beit3.spm").write_bytes((shared / "data" / "tokenizers" / "beit3.spm").read_bytes())
    assert_learns(build(model), pictures, captions, steps=60)
