"""JSON that was written elsewhere: small enough, not too deep, without repeated keys, before anything looks into it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from mwactl.errors import VerificationError

MAX_JSON_BYTES = 16 * 2**20
"""The longest document that is taken from elsewhere, or written for others."""

_MAX_DEPTH = 64


def parse_untrusted(data: bytes, *, what: str, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        data: Its bytes, in UTF-8.
        what: What it is meant to be (`the index`), for the error.
        where: What it came in, for the error.

    Raises:
        VerificationError: It is too long or too deep, repeats a key, or is no JSON object.
    """
    if len(data) > MAX_JSON_BYTES:
        fail(f"{what} is too long", where=where, why=f"{len(data):,} bytes, at most {MAX_JSON_BYTES:,} are read")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        fail(f"{what} is no JSON that can be trusted", where=where, why=str(error))
    if not isinstance(document, dict):
        fail(f"{what} is no JSON object", where=where, why=f"it is {type(document).__name__}")
    if _is_deeper(document, _MAX_DEPTH):
        fail(f"{what} is nested too deeply", where=where, why=f"more than {_MAX_DEPTH} levels")
    return document


def fail(what: str, *, where: str, why: str | None = None) -> NoReturn:
    """Refuse what came from elsewhere.

    Raises:
        VerificationError: Always.
    """
    raise VerificationError(what, where=where, why=why, fix="fetch it again, or ask whoever made it; nothing was taken")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may take different ones of two equal keys: then what was checked is not what is used.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _is_deeper(document: Any, depth: int) -> bool:
    level = [document]
    for _ in range(depth):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)
