"""What a program without torch needs to prepare a backbone's input: the picture transform and the tokenizer, as data.

`mwactl.runtime` reads these facts (`preprocess.json` of a bundle) and computes the same pixels and the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from mwactl.files import canonical_json, sha256_bytes


@dataclass(frozen=True)
class Portable:
    """The preprocessing of one backbone.

    Args:
        image: The picture transform, JSON values.
        text: The tokenizer, JSON values; `text["file"]` names one of `files`.
        files: The tokenizer's files by name.
        requirements: What must be installed to tokenize, as pip names it.
    """

    image: Mapping[str, Any]
    text: Mapping[str, Any]
    files: Mapping[str, bytes] = field(repr=False)
    requirements: tuple[str, ...]

    def preprocess(self) -> dict[str, Any]:
        """The content of `preprocess.json`: the facts, and the digests of the tokenizer's files."""
        digests = {name: sha256_bytes(content) for name, content in sorted(self.files.items())}
        return {"image": dict(self.image), "text": dict(self.text), "files": digests}

    @property
    def digest(self) -> str:
        """The identity of the preprocessing: equal digests, equal pixels and ids."""
        return sha256_bytes(canonical_json(self.preprocess()))


def no_older_than_here(*packages: str) -> tuple[str, ...]:
    """Requirements on packages, as pip names them: an older one may not read what this one wrote, or read otherwise."""
    return tuple(f"{package}>={version(package)}" for package in packages)
