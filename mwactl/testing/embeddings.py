"""Embeddings: of the right form, the same each time, alone and among others, with and without padding.

Shape notation: b batch, s tokens, e the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mwactl.backbone.contract import Backbone
from mwactl.backbone.precision import autocast, hold_frozen
from mwactl.errors import IncompatibleError
from mwactl.testing.subject import CAPTIONS, MODALITIES, TOLERANCE, Subject, distance, same_bits

_BF16_COSINE = 0.97


def form(subject: Subject) -> Iterator[str]:
    """[b, e] in fp32, finite, not of length one."""
    counts = {"image": len(subject.pixels), "text": len(CAPTIONS)}
    for modality, rows in subject.own_rows.items():
        expected = [counts[modality], subject.backbone.embedding_width]
        if list(rows.shape) != expected or rows.dtype != torch.float32:
            yield f"`encode_{modality}` gives {list(rows.shape)} in {rows.dtype}; it must be {expected} in float32"
        elif not rows.isfinite().all():
            yield f"`encode_{modality}` gives NaN or infinite numbers"
        elif (rows.norm(dim=-1) - 1).abs().max() < 1e-4:
            yield f"`encode_{modality}` gives rows of length one: give them as they are before that"


def determinism(subject: Subject) -> Iterator[str]:
    """The same bits each time, and no random number is drawn."""
    before = torch.get_rng_state()
    first, second = subject.embed(subject.backbone), subject.embed(subject.backbone)
    if not torch.equal(torch.get_rng_state(), before):
        yield "encoding draws random numbers, in evaluation mode too"
    for modality in MODALITIES:
        if not same_bits(first[modality], second[modality]):
            yield f"`encode_{modality}` gives something else the second time"


@torch.inference_mode()
def batch_independence(subject: Subject) -> Iterator[str]:
    """An embedding is the same alone and among others."""
    backbone, inputs = subject.backbone, {"image": subject.pixels, "text": subject.tokens}
    for modality in MODALITIES:
        encode = backbone.encode_image if modality == "image" else backbone.encode_text
        alone = torch.cat([encode(one[None]) for one in inputs[modality]])
        if (far := distance(alone, subject.own_rows[modality])) > TOLERANCE:
            yield f"`encode_{modality}` gives something else for a batch of one than among others (by {far:.1e})"


@torch.inference_mode()
def padding(subject: Subject) -> Iterator[str]:
    """`encode_padded_text` gives what `encode_text` gives; at every length where columns of padding may be cut."""
    filler = _cut_padding(subject.backbone)
    for who, model in (("", subject.backbone), (" with modules", subject.adapted())):
        expected = model.encode_text(subject.tokens)
        if (far := distance(model.encode_padded_text(subject.tokens), expected)) > TOLERANCE:
            yield f"`encode_padded_text`{who} gives something else than `encode_text` (by {far:.1e})"
        elif filler is not None:
            yield from _at_other_lengths(model.encode_padded_text, subject.tokens, expected, filler, who)


def _at_other_lengths(
    encode: Callable[[Tensor], Tensor], tokens: Tensor, expected: Tensor, filler: int, who: str
) -> Iterator[str]:
    for row, own in zip(tokens, expected, strict=True):
        used = int((row != filler).nonzero().max()) + 1
        for length in {used, (used + len(row)) // 2}:
            if distance(encode(row[None, :length]), own[None]) > TOLERANCE:
                yield f"`encode_padded_text`{who} gives a caption of {used} tokens something else at length {length}"
                return


def half_precision(subject: Subject) -> Iterator[str]:
    """In bf16, as it is trained on a GPU, it computes nearly the same."""
    backbone = subject.fresh()
    hold_frozen(backbone, "bf16")
    with autocast(torch.device("cpu"), "bf16"):
        rows = subject.embed(backbone)
    for modality, own in subject.own_rows.items():
        cosine = nn.functional.cosine_similarity(rows[modality].float(), own, dim=-1).min().item()
        if not cosine > _BF16_COSINE:
            yield f"`encode_{modality}` in bf16 is far from fp32: cosine {cosine:.3f}"


def _cut_padding(backbone: Backbone) -> int | None:
    """What fills captions up, where a bundle cuts columns of it; None: it does not, or there are no bundles."""
    try:
        text = backbone.portable().text
    except IncompatibleError:
        return None
    return int(text["padding"]) if text["trim"] else None
