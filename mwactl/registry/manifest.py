"""The manifest: what an entry is, in canonical JSON without times and hosts: equal content has an equal digest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from mwactl.errors import IncompatibleError, UsageError, VerificationError
from mwactl.files import canonical_json
from mwactl.registry.blobs import is_digest

SCHEMA = 1
_MADE_WRONG = "have it published again by whoever made it: these are the bytes that were published"
_OWN_KEYS = frozenset({"schema", "kind", "parents", "files"})
_PATH_PART = re.compile(r"[^\x00-\x1f\x7f\\/:]+")
_PICKLES = frozenset({".pt", ".pth", ".bin"})
# Not the `mimetypes` module: what it answers depends on the machine, and the answer is part of the digest.
_MEDIA_TYPES = {
    ".json": "application/json",
    ".md": "text/markdown",
    ".onnx": "application/vnd.onnx",
    ".safetensors": "application/vnd.safetensors",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}


def check_publishable(path: str) -> None:
    """Look whether a file may be in an entry under this path.

    Raises:
        UsageError: The path leads out of the entry, or the file is a pickle by its suffix.
    """
    if not _is_relative(path):
        raise UsageError(
            f"{path!r} cannot be the path of a file in the registry",
            why="it has to be relative, with '/' between its parts and without '.', '..', ':' and '\\'",
            fix="use a path such as adapter.safetensors",
        )
    if PurePosixPath(path).suffix.lower() in _PICKLES:
        raise UsageError(
            f"{path} is not kept in the registry",
            why="files with this suffix are pickles, and loading a pickle runs the code in it",
            fix="save the tensors as safetensors",
        )


def file_record(path: str, digest: str, size: int) -> dict[str, Any]:
    """What a manifest says about one file; `size` is in bytes."""
    media_type = _MEDIA_TYPES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")
    return {"path": path, "media_type": media_type, "size": size, "sha256": digest}


def manifest_bytes(
    kind: str, parents: Sequence[str], files: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> bytes:
    """The canonical bytes of a manifest.

    Raises:
        ValueError: A fact has a name of the manifest's own, a parent is no digest, or a number is NaN.
    """
    if own := _OWN_KEYS & facts.keys():
        raise ValueError(f"facts may not be named {', '.join(sorted(own))}")
    if wrong := [parent for parent in parents if not is_digest(parent)]:
        raise ValueError(f"parents are manifest digests (64 hexadecimal digits), not {wrong}")
    by_path = sorted(files, key=lambda file: str(file["path"]))
    return canonical_json({"schema": SCHEMA, "kind": kind, "parents": list(parents), "files": by_path, **facts})


def parse_manifest(data: bytes, *, where: str, fix: str = _MADE_WRONG) -> dict[str, Any]:
    """Read a manifest whose bytes have been verified; the digest says they are unchanged, not that they make sense.

    Args:
        data: The bytes.
        where: What it is the manifest of.
        fix: What to do where it is none; another for bytes that nobody has verified.

    Raises:
        IncompatibleError: The manifest has a schema that this version does not know.
        VerificationError: It is no manifest.
    """
    try:
        manifest = json.loads(data, parse_float=_finite, parse_constant=_finite)
        if b"\\ud" in data.lower():  # a surrogate: half a pair could never be printed
            canonical_json(manifest)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"the manifest of {where} is no JSON", why=str(error), fix=fix) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        raise VerificationError(f"{where} is no manifest", why="it has no schema number", fix=fix)
    if manifest["schema"] != SCHEMA:
        raise IncompatibleError(
            f"{where} was published by a newer mwactl",
            why=f"its manifest has schema {manifest['schema']}, this version reads {SCHEMA}",
            fix="pip install --upgrade mwactl",
        )
    parents, files = manifest.get("parents"), manifest.get("files")
    if not isinstance(manifest.get("kind"), str) or not isinstance(parents, list) or not isinstance(files, list):
        raise VerificationError(f"{where} is no manifest", why="it lacks kind, parents or files", fix=fix)
    if not all(map(is_digest, parents)) or not all(map(_is_file_record, files)):
        raise VerificationError(f"{where} is no manifest", why="a parent or a file in it is malformed", fix=fix)
    return manifest


def _finite(text: str) -> float:
    """A number that JSON can say again."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number


def _is_file_record(record: object) -> bool:
    if not isinstance(record, dict):
        return False
    path, size = record.get("path"), record.get("size")
    return (
        isinstance(path, str)
        and _is_relative(path)
        and isinstance(size, int)
        and size >= 0
        and is_digest(record.get("sha256"))
    )


def _is_relative(path: str) -> bool:
    parts = path.split("/")
    return all(part not in (".", "..") and _PATH_PART.fullmatch(part) for part in parts)
