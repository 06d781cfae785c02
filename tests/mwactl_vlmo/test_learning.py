"""A random VLMo, frozen, learns real pairs by heart through its adapter: gradients reach every module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from mwactl.adapter import inject
from mwactl.backbone.contract import unit_rows
from mwactl.backbone.spec import BackboneSpec, WeightsUsed
from mwactl.config.recipe import MethodConfig, MwaConfig, TrainConfig
from mwactl.evaluate.ranks import retrieval_ranks
from mwactl.train.loss import contrastive_loss
from mwactl.train.optimiser import adamw
from mwactl.train.schedule import learning_rate
from mwactl_vlmo.backbone import VlmoBackbone
from mwactl_vlmo.model import Vlmo
from mwactl_vlmo.names import VOCABULARY

PAIRS, STEPS = 64, 120


@pytest.mark.shared
def test_a_tiny_model_learns_64_real_pairs_by_heart(shared: Path, kind: str, random_model: Callable[..., Vlmo]) -> None:
    model = random_model(kind, width=64, hidden=128, vocabulary=30522, text_length=40, bias_text_length=196)
    backbone = VlmoBackbone(BackboneSpec("tiny", "vlmo", "tiny"), WeightsUsed("random"), model, VOCABULARY)
    pixels, tokens = pairs_of(shared / "data" / "flickr8k", backbone)
    modules = MwaConfig(knowledge_extractor=16, alignment_enhancer=32)
    adapted = inject(backbone, MethodConfig(mwa=modules, train_head=True, train_logit_scale=True)).train()
    config, parameters, own = TrainConfig(lr=3e-3), adapted.trainable(), torch.arange(PAIRS)
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimiser = adamw(parameters, config)
    for step in range(STEPS):
        rate = learning_rate(step, total=STEPS, warmup=config.warmup, peak=config.lr, floor=0.0)
        for group in optimiser.param_groups:
            group["lr"] = rate
        image, text = unit_rows(adapted.encode_image(pixels)), unit_rows(adapted.encode_text(tokens))
        loss = contrastive_loss(image, text, backbone.logit_scale.exp(), own, own)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
    assert not [name for name, value in start.items() if torch.equal(value, parameters[name])]
    adapted.eval()
    with torch.inference_mode():
        embeddings = (unit_rows(adapted.encode_image(pixels)), unit_rows(adapted.encode_text(tokens)))
    ranks = retrieval_ranks(*(rows.numpy() for rows in embeddings), numpy.stack([own.numpy()] * 2, axis=1))
    assert ranks.image_to_text.tolist() == ranks.text_to_image.tolist() == [1] * PAIRS


def pairs_of(folder: Path, backbone: VlmoBackbone) -> tuple[Tensor, Tensor]:
    """The first pictures of the train split, each with its first caption."""
    images = json.loads((folder / "dataset_flickr8k.json").read_text())["images"]
    chosen = [image for image in images if image["split"] == "train"][:PAIRS]
    transform = backbone.image_transform()
    pictures = [Image.open(folder / "images" / image["filename"]).convert("RGB") for image in chosen]
    captions = [image["sentences"][0]["raw"] for image in chosen]
    return torch.stack([transform(picture) for picture in pictures]), backbone.tokenize(captions)
