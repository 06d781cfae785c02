"""float16 vectors in float32, several times as quickly as NumPy's own cast: reading them is half of a search.

The bits are moved, not the numbers: with its fields shifted into float32's places a half is too small by 2^112
exactly (the difference of the exponents' offsets, 127 - 15), and a multiplication by a power of two loses nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PLACES = 13  # float32 has 23 bits of mantissa, float16 has 10
_KEEP = np.int32(~0x70000000)  # three copies of the sign that lie in the exponent's place
_SCALE = np.float32(2.0**112)
_ROWS = 128  # a block of this many rows stays in the processor's cache through the four passes


def widen(vectors: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, e] float16, all finite, in float32, exactly; float32 as it is."""
    if vectors.dtype == np.float32:
        return np.asarray(vectors, dtype=np.float32)
    wide = np.empty(vectors.shape, np.float32)
    halves = np.ascontiguousarray(vectors).view(np.int16)
    bits = wide.view(np.int32)
    for start in range(0, len(wide), _ROWS):
        block = bits[start : start + _ROWS]
        np.copyto(block, halves[start : start + _ROWS])  # the sign is extended upwards
        np.left_shift(block, _PLACES, out=block)
        np.bitwise_and(block, _KEEP, out=block)
        np.multiply(wide[start : start + _ROWS], _SCALE, out=wide[start : start + _ROWS])
    return wide
