"""What a backbone makes of captions and pictures, and the same without torch.

Shape notation: b batch, h and w pixels, s tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mwactl.backbone.contract import Augmentation, ImageTransform
from mwactl.errors import IncompatibleError
from mwactl.runtime.bundle import CaptionTokenizer, PictureTransform
from mwactl.testing.subject import CAPTIONS, Refused, Subject, pictures


def tokenizer(subject: Subject) -> Iterator[str]:
    """Captions -> [b, s] int64, s the context length: the same each time, cut where they are too long."""
    backbone, tokens = subject.backbone, subject.tokens
    expected = [len(CAPTIONS), backbone.context_length]
    if not isinstance(tokens, Tensor) or list(tokens.shape) != expected or tokens.dtype != torch.int64:
        form = f"{list(tokens.shape)} {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        yield f"`tokenize` gives {form} for {len(CAPTIONS)} captions; it must be {expected} torch.int64"
        return
    if not torch.equal(backbone.tokenize(list(CAPTIONS)), tokens):
        yield "`tokenize` gives other ids the second time"
    for caption, row in zip(CAPTIONS, tokens, strict=True):
        if not torch.equal(backbone.tokenize([caption])[0], row):
            yield f"`tokenize` gives {caption[:20]!r} other ids alone than among others"
    if torch.equal(tokens[0], tokens[1]):
        yield "`tokenize` gives different captions the same ids"
    if not torch.equal(backbone.tokenize([CAPTIONS[-1] + "and more"])[0], tokens[-1]):
        yield f"`tokenize` does not cut captions at the context length, {backbone.context_length}"


def transform(subject: Subject) -> Iterator[str]:
    """An RGB picture of any shape -> [3, h, w]; with an augmentation too, which draws from the global generators."""
    backbone = subject.backbone
    evaluation, training = backbone.image_transform(), backbone.image_transform(Augmentation(0.5, colour=True))
    expected = (3, *backbone.image_size)
    for picture in pictures():
        before = picture.tobytes()
        for name, function in (("without an augmentation", evaluation), ("with one", training)):
            pixels = function(picture)
            if not isinstance(pixels, Tensor) or pixels.shape != expected or pixels.dtype != torch.float32:
                form = f"{list(pixels.shape)} {pixels.dtype}" if isinstance(pixels, Tensor) else type(pixels).__name__
                yield f"`image_transform` {name} gives {form} of {picture.size}; it must be {list(expected)} float32"
                return
        if picture.tobytes() != before:
            yield "`image_transform` changes the picture that it is given"
    if not torch.equal(_seeded(evaluation, 0), _seeded(evaluation, 1)):
        yield "`image_transform` without an augmentation is random"
    if torch.equal(_seeded(training, 0), _seeded(training, 1)):
        yield "`image_transform` with an augmentation changes nothing at random"
    if not torch.equal(_seeded(training, 0), _seeded(training, 0)):
        yield "`image_transform` with an augmentation draws from generators that no seed of torch or `random` reaches"


def portable(subject: Subject) -> Iterator[str]:
    """By its data alone, without torch: the same ids, and the same pixels to the last bit."""
    backbone = subject.backbone
    try:
        data = backbone.portable()
    except IncompatibleError as error:
        raise Refused(str(error)) from error
    text, image = json.loads(json.dumps(dict(data.text))), json.loads(json.dumps(dict(data.image)))
    ids = CaptionTokenizer(text, data.files[text["file"]])
    for caption, row in zip(CAPTIONS, subject.tokens, strict=True):
        if not np.array_equal(ids.padded(ids([caption]))[0], row.numpy()):
            yield f"by `portable` {caption[:20]!r} has other ids than by `tokenize`"
    pixels, function = PictureTransform(image), backbone.image_transform()
    for picture in pictures():
        if not np.array_equal(pixels(picture), function(picture).numpy()):
            yield f"by `portable` a picture of {picture.size} becomes other pixels than by `image_transform`"


def _seeded(function: ImageTransform, seed: int) -> Tensor:
    """The first picture, transformed with torch and `random` at this seed; their states are put back."""
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            return function(pictures()[0])
        finally:
            random.setstate(state)
