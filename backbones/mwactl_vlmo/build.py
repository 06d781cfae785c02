"""Building a VLMo, and loading the official checkpoints: every key accounted for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mwactl.backbone.matching import another_models, load_strictly
from mwactl.backbone.spec import BackboneSpec, WeightsRequest, WeightsUsed
from mwactl.backbone.weights import resolve_weights
from mwactl.errors import IncompatibleError
from mwactl_vlmo.backbone import VlmoBackbone
from mwactl_vlmo.model import Vlmo, initial_value
from mwactl_vlmo.names import config_of, vocabulary_of
from mwactl_vlmo.positions import resize_bias_table, resize_positions
from mwactl_vlmo.sizes import VlmoConfig
from mwactl_vlmo.tokenizer import VlmoTokenizer

#: What a file may lack: those parameters must be trained.
_RETRIEVAL_HEADS = frozenset({"itc_text_proj.fc.weight", "itc_image_proj.fc.weight", "logit_scale"})
#: Index matrices, which follow from the sizes, and the heads of pre-training, which retrieval has no use for.
_IGNORED = frozenset(
    {
        "relative_position_index", "text_relative_position_index", "text_imag_relative_position_index",
        "itc_vl_text_proj.fc.weight", "itc_vl_image_proj.fc.weight", "logit_vl_scale",
        "itm_score.fc.weight", "itm_score.fc.bias",
        "mlm_score.transform.dense.weight", "mlm_score.transform.dense.bias",
        "mlm_score.transform.LayerNorm.weight", "mlm_score.transform.LayerNorm.bias",
        "mlm_score.decoder.weight", "mlm_score.bias",
    }
)  # fmt: skip


def build(spec: BackboneSpec, request: WeightsRequest) -> VlmoBackbone:
    """Build the model in fp32 on the CPU with its weights and its tokenizer.

    Raises:
        NotFoundError: The weights are not on this machine; `fix` says how to get them.
        IncompatibleError: The weights, or a folder's vocabulary, are another model's.
        VerificationError: A file is damaged or not what it should be.
    """
    model = _on_meta(spec)
    used, state = resolve_weights(spec, request, containers=("state_dict", "module", "model"))
    lacking = frozenset[str]()
    if used.path is not None:
        lacking = load(model, state, spec.name, used.path)
    else:
        _make(model, list(model.state_dict()), seed=request.seed)
    return VlmoBackbone(spec, used, model, _vocabulary(spec, model.config), lacking)


def build_without_weights(spec: BackboneSpec) -> VlmoBackbone:
    """Build the model on the meta device: every shape, no memory."""
    model = _on_meta(spec)
    return VlmoBackbone(spec, WeightsUsed("none"), model, _vocabulary(spec, model.config))


def load(model: Vlmo, state: dict[str, Tensor], name: str, path: Path) -> frozenset[str]:
    """Give a model on the meta device the tensors of a file, its positions fitted to the model's sizes.

    Returns:
        The retrieval heads that the file lacks; they hold the same initial values on every machine.

    Raises:
        IncompatibleError: A key is missing, unexpected or misshapen.
    """
    try:
        fitted = _with_fitting_positions(state, model.config)
    except ValueError as error:
        raise another_models(name, where=str(path), why=str(error)) from error
    lacking = load_strictly(
        model, fitted, name=name, where=str(path), may_lack=_RETRIEVAL_HEADS, ignored=lambda key, _: key in _IGNORED
    )
    _make(model, sorted(lacking), seed=0)  # of one seed: they are part of the backbone's identity
    return frozenset(lacking)


def _with_fitting_positions(state: dict[str, Tensor], config: VlmoConfig) -> dict[str, Tensor]:
    """The same tensors, those that depend on picture size and text length made the model's.

    Raises:
        ValueError: A table is not one of patches in a square.
    """
    grid, text = config.grid, config.text_length
    fitting: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
        "relative_position_bias_table": (2, lambda table: resize_bias_table(table, grid, config.bias_text_length)),
        "transformer.pos_embed": (3, lambda table: resize_positions(table, grid)),
        "text_embeddings.position_embeddings.weight": (2, lambda table: table[:text]),
        "text_embeddings.position_ids": (2, lambda ids: ids[:, :text]),
    }
    fitted = dict(state)
    for key, (axes, fit) in fitting.items():
        if key in state and state[key].dim() == axes:  # any other form is refused later, like any other tensor's
            try:
                fitted[key] = fit(state[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
    return fitted


def _make(model: Vlmo, names: list[str], *, seed: int) -> None:
    """Initial values for tensors that no file gives, drawn in this order; the global random state stays as it was."""
    own = model.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = {name: initial_value(name, own[name]) for name in names}
    model.load_state_dict(made, strict=False, assign=True)


def _vocabulary(spec: BackboneSpec, config: VlmoConfig) -> Path:
    """The tokenizer's file.

    Raises:
        IncompatibleError: It has words for which the model has no rows.
    """
    file = vocabulary_of(spec)
    if (ids := VlmoTokenizer(file).ids) > config.vocabulary:
        raise IncompatibleError(
            f"the vocabulary of {spec.name} is larger than its embedding",
            where=str(file),
            why=f"{ids:,} words, {config.vocabulary:,} rows",
            fix="put the model's own vocab.txt into its folder",
        )
    return file


def _on_meta(spec: BackboneSpec) -> Vlmo:
    with torch.device("meta"):
        return Vlmo(config_of(spec))
