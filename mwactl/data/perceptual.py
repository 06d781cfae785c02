"""Perceptual hashes: pictures that look the same, though their bytes differ (another size, another compression).

A hash is the signs of the 8 × 8 lowest frequencies of the picture in grey, 32 × 32, about their median (pHash): 64
bits. It is made here because that takes three lines of scipy, and the usual package for it needs one for wavelets.

Of Flickr8k's 32 million pairs of photographs only the one true duplicate differs by 8 bits or fewer, while JPEG at
quality 30, half of the size, a fifth more light, or a hundredth cut off each side moves none of 300 photographs by more
than 8. Drawings on a white ground are closer together: there it is a hint. A mirrored picture is another.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

BITS = 64
DISTANCE = 8
"""Bits that may differ in pictures that look the same."""

_SIDE, _KEPT = 32, 8
_FLAT = 8.0  # below it all frequencies are rounding: of a picture of one colour there is nothing to compare
_BLOCK = 4096  # pictures compared at once with as many others: 64 MB


def perceptual_hash(picture: Image.Image) -> NDArray[np.bool_] | None:
    """The hash of a picture, [64]; None of one that is all one colour."""
    grey = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    frequencies = dctn(np.asarray(grey, np.float32), norm="ortho")[:_KEPT, :_KEPT].reshape(-1)  # [8, 8] -> [64]
    rest = frequencies[1:]  # without the mean
    if np.abs(rest).max() < _FLAT:
        return None
    bits: NDArray[np.bool_] = frequencies > np.median(rest)
    bits[0] = False
    return bits


def near_pairs(hashes: NDArray[np.bool_], distance: int) -> Iterator[tuple[int, int, int]]:
    """The pairs i < j of pictures of whose bits at most `distance` differ, and how many those are.

    All pairs are compared, in blocks: with bits as ±1 the differing ones are (64 - a · b) / 2, a product of matrices.

    Args:
        hashes: [n, 64].
        distance: How many bits may differ.
    """
    signs = hashes.astype(np.float32) * 2 - 1
    for top in range(0, len(signs), _BLOCK):
        for left in range(top, len(signs), _BLOCK):
            # [a, 64] @ [64, b] -> [a, b]
            apart = (BITS - signs[top : top + _BLOCK] @ signs[left : left + _BLOCK].T) / 2
            for row, column in np.argwhere(apart <= distance):
                first, second = top + int(row), left + int(column)
                if first < second:
                    yield first, second, int(apart[row, column])
