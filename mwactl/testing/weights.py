"""Weights: none of them, the same again, and all of them in the state dict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mwactl.backbone.contract import Backbone
from mwactl.backbone.fingerprint import fingerprint
from mwactl.backbone.spec import RANDOM
from mwactl.testing.subject import MODALITIES, Subject, same_bits


def without_weights(subject: Subject) -> Iterator[str]:
    """On the meta device there is the same model: shapes and counts, for dry runs and for what is loaded afterwards."""
    own, empty = subject.backbone, subject.plugin.build_without_weights(subject.spec)
    forms, found = _forms(own), _forms(empty)
    values = [name for name, tensor in empty.state_dict().items() if not tensor.is_meta]
    if values:
        yield f"`{values[0]}` has values: build it under `torch.device('meta')`"
        return
    differing = sorted(name for name in forms.keys() | found.keys() if forms.get(name) != found.get(name))
    if differing:
        name = differing[0]
        yield f"`{name}` is {found.get(name, 'missing')} without weights, {forms.get(name, 'missing')} with them"
    if empty.architecture() != own.architecture():
        yield "`architecture` is another without weights"
    embedded = {
        "image": empty.encode_image(torch.empty(2, 3, *own.image_size, device="meta")),
        "text": empty.encode_text(torch.empty(2, own.context_length, dtype=torch.int64, device="meta")),
    }
    for modality, rows in embedded.items():
        if rows.shape != (2, own.embedding_width):
            yield f"on the meta device `encode_{modality}` gives {list(rows.shape)} for two"


def same_again(subject: Subject) -> Iterator[str]:
    """One request, one backbone; another seed, another."""
    again = subject.plugin.build(subject.spec, subject.request)
    own = fingerprint(subject.backbone)
    if fingerprint(again) != own:
        yield "built again with the same weights it is another: its fingerprint differs"
    if subject.request.source == RANDOM:
        other = replace(subject.request, seed=subject.request.seed + 1)
        if fingerprint(subject.plugin.build(subject.spec, other)) == own:
            yield "another seed gives the same random weights"


def all_in_the_state_dict(subject: Subject) -> Iterator[str]:
    """A model that is given another's state dict computes the same to the last bit."""
    state = {name: tensor.clone() for name, tensor in subject.backbone.state_dict().items()}
    other = subject.fresh()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.5).add_(0.25)
    disturbed = subject.embed(other)
    other.load_state_dict(state)
    for modality in MODALITIES:
        if same_bits(disturbed[modality], subject.own_rows[modality]):
            yield f"`encode_{modality}` does not depend on what the state dict holds"
        if not same_bits(subject.embed(other)[modality], subject.own_rows[modality]):
            yield f"`encode_{modality}` depends on values that are not in the state dict"


def _forms(backbone: Backbone) -> dict[str, str]:
    return {name: _form(tensor) for name, tensor in backbone.state_dict().items()}


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype}".replace("torch.", "")
