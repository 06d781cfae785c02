"""Building a BEiT-3, and loading the official checkpoints: every key accounted for."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from mwactl.backbone.matching import another_models, load_strictly
from mwactl.backbone.spec import BackboneSpec, WeightsRequest, WeightsUsed
from mwactl.backbone.store import find_tokenizer
from mwactl.backbone.weights import resolve_weights
from mwactl_beit3.authors_keys import refuse_adapter
from mwactl_beit3.backbone import Beit3Backbone
from mwactl_beit3.model import INITIAL_LOGIT_SCALE, Beit3Retrieval, initialise, initialise_linear
from mwactl_beit3.names import config_of
from mwactl_beit3.positions import resize_positions
from mwactl_beit3.tokenizer import read_tokenizer

_POSITIONS = "beit3.encoder.embed_positions.A.weight"
#: What pre-training files lack: those parameters must be trained.
_RETRIEVAL_HEADS = frozenset({"vision_head.weight", "language_head.weight", "logit_scale"})
#: The heads of masked data modelling, which retrieval has no use for (see the original project, microsoft/unilm).
_PRETRAINING_HEADS = re.compile(r"(mim_head|mlm_head|(.*\.)?output_projection)\.(weight|bias)")


def build(spec: BackboneSpec, request: WeightsRequest) -> Beit3Backbone:
    """Build the model in fp32 on the CPU with its weights and its tokenizer.

    Raises:
        NotFoundError: Weights or tokenizer are not on this machine; `fix` says how to get them.
        IncompatibleError: The weights are another model's; names the keys. Or the tokenizer is.
        VerificationError: A file is damaged or not what it should be.
    """
    model = _on_meta(spec)
    used, state = resolve_weights(spec, request)
    lacking = frozenset[str]()
    if used.path is not None:
        lacking = load(model, state, spec.name, used.path)
    else:
        model.to_empty(device="cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            initialise(model)
    file = find_tokenizer(spec, beside=used.path, download=request.download, reporter=request.reporter)
    return Beit3Backbone(spec, used, model, read_tokenizer(file, spec.name, model.beit3.config.vocabulary), lacking)


def build_without_weights(spec: BackboneSpec) -> Beit3Backbone:
    """Build the model on the meta device: every shape, no memory."""
    return Beit3Backbone(spec, WeightsUsed("none"), _on_meta(spec), tokenizer=None)


def load(model: Beit3Retrieval, state: dict[str, Tensor], name: str, path: Path) -> frozenset[str]:
    """Give a model on the meta device the tensors of a file, its picture positions resized to the model's grid.

    Returns:
        The retrieval heads that the file lacks; they hold the same initial values on every machine.

    Raises:
        IncompatibleError: A key is missing, unexpected or misshapen.
    """
    refuse_adapter(state, path)
    if _POSITIONS in state:
        try:
            state[_POSITIONS] = resize_positions(state[_POSITIONS], model.beit3.config.patches)
        except ValueError as error:
            raise another_models(name, where=str(path), why=f"{_POSITIONS}: {error}") from error
    lacking = load_strictly(
        model,
        state,
        name=name,
        where=str(path),
        may_lack=_RETRIEVAL_HEADS,
        ignored=lambda key, _: _PRETRAINING_HEADS.fullmatch(key) is not None,
    )
    _make_lacking(model, lacking)
    return frozenset(lacking)


def _make_lacking(model: Beit3Retrieval, lacking: set[str]) -> None:
    """Initial values for heads that the file lacks. Of one seed: they are part of the backbone's identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in sorted(lacking):
            if name == "logit_scale":
                model.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
            else:
                head = getattr(model, name.removesuffix(".weight"))
                initialise_linear(head.to_empty(device="cpu"))


def _on_meta(spec: BackboneSpec) -> Beit3Retrieval:
    with torch.device("meta"):
        return Beit3Retrieval(config_of(spec))
