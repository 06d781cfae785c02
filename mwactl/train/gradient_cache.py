"""The gradient of a large batch in the memory of a small one (gradient caching: Gao et al., 2021, arXiv:2101.06983).

The contrastive loss needs the embeddings of the whole batch, but nothing else of it: so the towers encode it chunk by
chunk, nothing else being kept (pass 1), the loss gives the gradient of every embedding, and the towers encode each
chunk again and continue that gradient into their parameters (pass 2). Nothing is approximated: the parameters' gradient
is that of the whole batch. What a chunk draws at random follows from the run's seed, the step and the chunk's number,
so pass 2 computes what pass 1 did, also with dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from mwactl.train.checkpoint import random_state, restore_random_state

Encode = Callable[[Tensor], Tensor]
"""A tower: inputs of a chunk [m, …], where the loader left them -> embeddings [m, e] on the run's device, fp32."""


class ChunkedTower:
    """A tower that is shown its inputs in chunks, twice.

    Args:
        encode: The tower.
        inputs: [n, …], in the order in which they are cut.
        size: Inputs a chunk; the last may have fewer.
        seeds: What the random draws of a chunk follow from, beside its number.
        most: Inputs that chunks are counted for; more than there are: the last chunks are empty. None: as many.
    """

    def __init__(
        self, encode: Encode, inputs: Tensor, *, size: int, seeds: Sequence[int], most: int | None = None
    ) -> None:
        self._encode = encode
        self._inputs = inputs
        self._size = size
        self._seeds = seeds
        self._starts = range(0, len(inputs) if most is None else most, size)

    def chunks(self) -> Iterator[Tensor]:
        """The embeddings of each chunk, [m, e]; the same numbers each time."""
        for number, chunk in enumerate(self._cut(self._inputs)):
            torch.manual_seed(seed_of(*self._seeds, number))  # the CPU's generator and every device's
            yield self._encode(chunk)

    def embeddings(self) -> Tensor:
        """Pass 1: all embeddings, [n, e]; a leaf that collects its gradient, where anything in the tower is trained.

        With gradients although each chunk's graph is dropped at once: without, torch takes other kernels, with other
        last bits, and pass 2 would continue a gradient at another place.
        """
        trained = False

        def kept(rows: Tensor) -> Tensor:
            nonlocal trained
            trained |= rows.requires_grad
            return rows.detach()

        # By `map`, which lets a chunk go before it asks for the next: never two graphs at a time.
        return torch.cat(list(map(kept, self.chunks()))).requires_grad_(trained)  # chunks of [m, e] -> [n, e]

    def backward(self, gradient: Tensor | None) -> None:
        """Pass 2: from the embeddings' gradient, [n, e], to the parameters', which it is added to."""
        if gradient is None:
            return
        for rows, own in zip(self.chunks(), self._cut(gradient), strict=True):
            torch.autograd.backward(rows, own)

    def _cut(self, rows: Tensor) -> list[Tensor]:
        return [rows[start : start + self._size] for start in self._starts]


def cached_backward(
    encode_image: Encode,
    encode_text: Encode,
    pixels: Tensor,
    tokens: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    backward: Callable[[Tensor], None],
    *,
    size: int,
    seeds: Sequence[int],
    device: torch.device,
    largest_share: tuple[int, int] | None = None,
) -> Tensor:
    """Add a batch's gradient to that of the parameters.

    Captions are cut in order of their length, so that short ones do not wait for a long one's padding. The global
    generators are afterwards as they were before.

    Args:
        encode_image: [m, 3, h, w] -> [m, e].
        encode_text: [m, s] -> [m, e].
        pixels: [p, 3, h, w].
        tokens: [c, s].
        loss_of: Embeddings [p, e] and [c, e], in the order of `pixels` and `tokens` -> the loss, shape [].
        backward: Back-propagates the loss; where gradients are scaled, it scales (once, here).
        size: Pictures, or captions, that are encoded at once.
        seeds: What this step's random draws follow from.
        device: Where the towers compute.
        largest_share: Pictures and captions that chunks are counted for, where every process must encode as many
            chunks as every other. None: as many as there are.

    Returns:
        The loss, shape [], detached and not scaled.
    """
    order = longest_first(tokens)
    place = order.argsort().to(device)  # [c]: where a caption of the batch lies in that order
    most_pictures, most_captions = largest_share or (None, None)
    image_tower = ChunkedTower(encode_image, pixels, size=size, seeds=(*seeds, 0), most=most_pictures)
    text_tower = ChunkedTower(encode_text, tokens[order], size=size, seeds=(*seeds, 1), most=most_captions)
    with _generators_kept(device):
        images, texts = image_tower.embeddings(), text_tower.embeddings()  # [p, e], [c, e]
        loss = loss_of(images, texts[place])
        backward(loss)
        for tower, rows in ((image_tower, images), (text_tower, texts)):
            tower.backward(rows.grad)
    return loss.detach()


def longest_first(tokens: Tensor) -> Tensor:
    """The order of captions by length, [c, s] -> [c]: the largest chunk comes first, and the others fit in its place.

    What padding is, only the tokenizer knows; here it is the run of equal ids that a row ends with.
    """
    differs = tokens != tokens[:, -1:]  # [c, s]
    lengths = (differs * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).amax(dim=1)  # [c, s] -> [c]
    return lengths.argsort(descending=True, stable=True)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """Put the global generators back as they were."""
    state = random_state(device)
    try:
        yield
    finally:
        restore_random_state(state, device)
