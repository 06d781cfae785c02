"""The identity of a backbone: a digest of its weights and of the facts that are no weights.

An adapter is only ever used on the backbone it was trained on; this digest is how that is checked. It covers every
parameter and persistent buffer (name, dtype, shape, bytes) as the plugin maps them, so a checkpoint and its
conversion to another container agree, and the architecture facts, so QuickGELU and GELU differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from mwactl.backbone.contract import Backbone
from mwactl.files import canonical_json


def fingerprint(backbone: Backbone) -> str:
    """The backbone's digest as `sha256:…`. Compute it before training changes any of its tensors.

    Raises:
        ValueError: The backbone is on the meta device and has no weights.
    """
    if next(backbone.parameters()).is_meta:
        raise ValueError(f"{backbone.spec.name} was built without weights: it has no fingerprint")
    return tensors_digest(backbone.state_dict(), canonical_json(backbone.architecture()))


def tensors_digest(tensors: Mapping[str, Tensor], preamble: bytes = b"") -> str:
    """The digest of `preamble` and of names, dtypes, shapes and values, whatever container holds them."""
    digest = hashlib.sha256(preamble)
    for name, tensor in sorted(tensors.items()):
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
