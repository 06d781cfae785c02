"""The one batch that every variant steps on.

Shape notation: b pictures, k captions a picture, h and w pixels, s tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from mwactl.backbone.contract import Backbone
from mwactl.bench.family import Family
from mwactl.data import CaptionedImages, open_image
from mwactl.errors import UsageError

#: The token counts of 64 captions, special tokens included, spread as those of COCO's captions under BEiT-3's
#: tokenizer (mean 13.8, deviation 3.0, 99th percentile 24): (length, how many).
_COCO = (
    (9, 3), (10, 6), (11, 5), (12, 10), (13, 9), (14, 8), (15, 7), (16, 5), (17, 4), (18, 2), (19, 2), (20, 1),
    (21, 1), (24, 1),
)  # fmt: skip
_LENGTHS = [length for length, count in _COCO for _ in range(count)]


@dataclass(frozen=True)
class Batch:
    """Pictures with their captions.

    Args:
        pixels: [b, 3, h, w].
        tokens: [b, k, s], padded to the context length.
        padding: The id of padding.
    """

    pixels: Tensor
    tokens: Tensor
    padding: int

    @property
    def lengths(self) -> Tensor:
        """Tokens of every caption without its padding: [b, k]."""
        return (self.tokens != self.padding).sum(dim=-1)

    @property
    def captions_per_image(self) -> int:
        """k."""
        return self.tokens.shape[1]

    def pairs(self) -> Batch:
        """Each picture with its first caption."""
        return Batch(self.pixels, self.tokens[:, :1], self.padding)

    def several(self) -> Batch:
        """About as many pairs, of fewer pictures with all their captions; at least two pictures."""
        pictures = max(2, -(-len(self.pixels) // self.captions_per_image))
        return Batch(self.pixels[:pictures], self.tokens[:pictures], self.padding)

    def spread(self, count: int) -> Batch:
        """Some pictures whose first captions' lengths are spread as the whole batch's."""
        order = self.lengths[:, 0].argsort(stable=True)
        chosen = order[[(2 * place + 1) * len(order) // (2 * count) for place in range(count)]]
        return Batch(self.pixels[chosen], self.tokens[chosen], self.padding)

    def twice(self) -> Batch:
        """Every picture and caption two times: what depends on the batch's size alone doubles."""
        return Batch(self.pixels.repeat(2, 1, 1, 1), self.tokens.repeat(2, 1, 1), self.padding)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.pixels.to(device), self.tokens.to(device), self.padding)

    def save(self, path: Path) -> None:
        """Write it for `load_batch`."""
        tensors = {"pixels": self.pixels, "tokens": self.tokens, "padding": torch.tensor(self.padding)}
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def load_batch(path: Path) -> Batch:
    """What `Batch.save` wrote."""
    tensors = safetensors.torch.load_file(path)
    return Batch(tensors["pixels"], tensors["tokens"], int(tensors["padding"]))


def caption_lengths(count: int, generator: torch.Generator) -> Tensor:
    """Token counts as COCO's, for any number of captions, in random order: [count]."""
    quantiles = [_LENGTHS[(2 * place + 1) * len(_LENGTHS) // (2 * count)] for place in range(count)]
    return torch.tensor(quantiles)[torch.randperm(count, generator=generator)]


def synthetic_batch(backbone: Backbone, family: Family, *, size: int, captions: int, seed: int) -> Batch:
    """Noise for pictures, random ids for captions, but captions of real lengths.

    Args:
        backbone: May be on the meta device.
        family: Its padding and its largest id.
        size: b.
        captions: k.
        seed: Of everything random.
    """
    generator = torch.Generator().manual_seed(seed)
    context, last = backbone.context_length, family.vocabulary(backbone) - 1
    pixels = torch.randn(size, 3, *backbone.image_size, generator=generator)
    tokens = torch.full((size, captions, context), family.padding)
    for caption in range(captions):
        for row, length in zip(tokens[:, caption], caption_lengths(size, generator).tolist(), strict=True):
            used = min(length, context)
            row[:used] = torch.randint(2, last, (used,), generator=generator)
            row[used - 1] = last  # where the end token is looked for, it is the highest id
    return Batch(pixels, tokens, family.padding)


def batch_of_data(backbone: Backbone, family: Family, data: CaptionedImages, *, size: int, captions: int) -> Batch:
    """The first pictures of a data set, prepared as for an evaluation, each with as many captions as all of them have.

    Raises:
        UsageError: It has fewer pictures.
        NotFoundError: The backbone's tokenizer is not on this machine.
        DataError: A picture cannot be read.
    """
    if len(data.images) < size:
        raise UsageError(
            f"{data.name} {data.split} has {len(data.images)} pictures", fix=f"--batch-size {len(data.images)}"
        )
    owned = data.captions_of()[:size]
    count = min(captions, *(len(own) for own in owned))
    transform = backbone.image_transform()
    pixels = torch.stack([transform(open_image(path)) for path in data.images[:size]])
    words = [data.captions[caption] for own in owned for caption in own[:count]]
    tokens = backbone.tokenize(words).view(size, count, -1)  # [b·k, s] -> [b, k, s]
    return Batch(pixels, tokens, family.padding)
