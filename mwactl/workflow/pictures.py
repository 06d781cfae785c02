"""Which pictures an adapter has seen: digests that travel with it, so that zero-shot is a checked claim.

A file of sorted 16-byte prefixes of the pictures' SHA-256: 1.8 MB for the whole of COCO's training split.
"""

from __future__ import annotations

from collections.abc import Iterable

from mwactl.errors import VerificationError

_PREFIX_BYTES = 16


def pack(digests: Iterable[str | None]) -> bytes:
    """Hexadecimal SHA-256 digests -> the file's bytes; pictures that could not be read have None and are left out."""
    return b"".join(sorted({bytes.fromhex(digest)[:_PREFIX_BYTES] for digest in digests if digest}))


def seen(data: bytes, digests: Iterable[str | None], *, where: str) -> int:
    """How many of the pictures are in the file.

    Raises:
        VerificationError: The file's size is impossible.
    """
    if len(data) % _PREFIX_BYTES:
        raise VerificationError("the list of training pictures is damaged", where=where)
    known = {data[start : start + _PREFIX_BYTES] for start in range(0, len(data), _PREFIX_BYTES)}
    return sum(bytes.fromhex(digest)[:_PREFIX_BYTES] in known for digest in digests if digest)
