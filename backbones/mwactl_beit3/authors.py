"""Checkpoints of the MultiWay-Adapter authors' training program: a whole BEiT-3, its modules among the weights.

The tensors do not tell all that such a model computed: the extractors' scale and the place of their LayerNorm are
options. Checkpoints of the training loop hold these beside the weights; of a file without them, the user says.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mwactl.backbone.checkpoint import read_checkpoint, read_torch_file
from mwactl.backbone.spec import BackboneSpec, ForeignAdapter, ImportHints
from mwactl.errors import IncompatibleError, UsageError
from mwactl_beit3.authors_keys import (
    ADD,
    ENHANCER,
    EXTRACTORS,
    NORM,
    SCALE,
    Layer,
    in_our_names,
    is_adapter_key,
    layers_of,
)
from mwactl_beit3.build import load
from mwactl_beit3.model import Beit3Retrieval
from mwactl_beit3.names import FAMILY
from mwactl_beit3.recognise import recognise
from mwactl_beit3.sizes import Beit3Config

_DEFAULT_ALPHA = 0.1
_LEARNED_ALPHA = "learnable_scalar"


def read(file: Path, spec: BackboneSpec | None, hints: ImportHints) -> ForeignAdapter | None:
    """Read an authors' checkpoint, or its weights alone; None for a file without any of their modules.

    Args:
        file: A torch file, or safetensors.
        spec: The backbone, where the user names it.
        hints: What else the user says.

    Raises:
        NotFoundError: No such file.
        VerificationError: The file is damaged, or wants to run code.
        UsageError: A hint contradicts the file.
        IncompatibleError: It is no BEiT-3 that is known, or its modules cannot be expressed here; says why.
    """
    checkpoint = read_checkpoint(file)
    weights = {key: tensor for key, tensor in checkpoint.state.items() if not is_adapter_key(key)}
    if len(weights) == len(checkpoint.state):
        return None
    try:
        name, config = recognise(weights, spec)
    except ValueError as error:
        folder = f"{FAMILY}:local-dir:FOLDER"
        raise IncompatibleError(
            "the backbone in this checkpoint is not known",
            where=str(file),
            why=str(error),
            fix=f"{ADD} {file} --backbone {folder}   (with a folder whose config.json has these sizes and the heads)",
        ) from error
    _check_whole(weights, config, name, file)
    assumed: list[str] = []
    try:
        layers = layers_of(checkpoint.state, config.layers)
        options = _options(layers[0], _said_by(file), hints, assumed)
    except ValueError as error:
        raise IncompatibleError(
            "this adapter cannot be taken over",
            where=str(file),
            why=str(error),
            fix=f"train one like it here: mwactl inject --backbone {name} --preset authors-code",
        ) from error
    return ForeignAdapter(name, options, in_our_names(layers), weights, checkpoint.sha256, tuple(assumed))


def _check_whole(weights: Mapping[str, Tensor], config: Beit3Config, name: str, file: Path) -> None:
    """See that the backbone in the file is complete: the adapter was trained on it, and cannot do without.

    Raises:
        IncompatibleError: A tensor is missing, unknown or misshapen.
    """
    with torch.device("meta"):
        model = Beit3Retrieval(config)
    try:
        lacking = load(model, dict(weights), name, file)
        problem = f"missing: {', '.join(sorted(lacking))}" if lacking else None
    except IncompatibleError as error:
        problem = error.why
    if problem is not None:
        raise IncompatibleError(
            f"the backbone in this checkpoint is not a whole {name}",
            where=str(file),
            why=problem,
            fix=f"{ADD} FILE with a checkpoint as their training wrote it",
        )


def _said_by(file: Path) -> dict[str, Any]:
    """The training program's options, where the file holds them as `args`. `read_checkpoint` has accepted it."""
    if file.suffix == ".safetensors":
        return {}
    options = read_torch_file(file).get("args")
    if isinstance(options, argparse.Namespace):
        return vars(options)
    return dict(options) if isinstance(options, Mapping) else {}


def _options(layer: Layer, said: Mapping[str, Any], hints: ImportHints, assumed: list[str]) -> dict[str, Any]:
    """The options of `method.mwa` with which our modules compute the same.

    Args:
        layer: The first layer's tensors; the others have the same names and shapes.
        said: The file's own options.
        hints: What the user says.
        assumed: Gets a phrase for everything that nobody said.

    Raises:
        ValueError: There are no such options, or what the file says contradicts its tensors.
        UsageError: A hint contradicts the file.
    """
    options: dict[str, Any] = {"preset": "authors-code"}
    if not {module for module, _ in layer} & EXTRACTORS.keys():
        if (hints.alpha, hints.layer_norm) != (None, None):
            raise UsageError("--alpha and --layer-norm: this checkpoint has no Knowledge Extractor")
        return {**options, "knowledge_extractor": 0}
    options |= _structure(layer, said)
    options["alpha"] = _alpha(_extractors_have(layer, SCALE), said, hints, assumed)
    options["layer_norm"] = _normalises(_extractors_have(layer, f"{NORM}.weight"), said, hints, assumed)
    return options


def _structure(layer: Layer, said: Mapping[str, Any]) -> dict[str, Any]:
    """Which modules there are and of what size."""
    extractors = [module for module in EXTRACTORS if (module, "down_proj.weight") in layer]
    enhanced = (ENHANCER, "fc1.weight") in layer
    if (option := said.get("ffn_option", "parallel")) != "parallel":
        raise ValueError(f"with ffn_option {option} their program never adds what the extractors compute")
    mode = "both" if len(extractors) == len(EXTRACTORS) else extractors[0].removeprefix("adaptmlp_")
    if (spoken := said.get("ffn_mode", mode)) != mode:
        raise ValueError(f"its options say ffn_mode {spoken}, its modules are those of {mode}")
    if enhanced and mode != "both":
        side = EXTRACTORS[extractors[0]]
        raise ValueError(f"it adapts the {side} side alone with {extractors[0]}, but both sides with {ENHANCER}")
    sizes = {layer[module, "down_proj.weight"].shape[0] for module in extractors}
    if len(sizes) > 1:
        raise ValueError(f"its two extractors have different middle dimensions: {sorted(sizes)}")
    structure: dict[str, Any] = {"knowledge_extractor": sizes.pop()}
    if not enhanced:
        structure["alignment_enhancer"] = 0
    if mode != "both":
        structure["modalities"] = (EXTRACTORS[extractors[0]],)
    return structure


def _extractors_have(layer: Layer, name: str) -> bool:
    having = [(module, name) in layer for module in {module for module, _ in layer} & EXTRACTORS.keys()]
    if any(having) != all(having):
        raise ValueError(f"one of its extractors has {name}, the other has not")
    return any(having)


def _alpha(learned: bool, said: Mapping[str, Any], hints: ImportHints, assumed: list[str]) -> float | str:
    spoken = said.get("ffn_adapter_scalar")
    if spoken is not None and learned != (spoken == _LEARNED_ALPHA):
        raise ValueError(f"its options say ffn_adapter_scalar {spoken}, and it holds {'' if learned else 'no '}scales")
    if learned:
        _agree("--alpha", hints.alpha, "learned")
        return "learned"
    if spoken is not None:
        alpha = _number(spoken)
        _agree("--alpha", hints.alpha, alpha)
        return alpha
    if hints.alpha is None:
        assumed.append(f"alpha {_DEFAULT_ALPHA}, which is their default")
        return _DEFAULT_ALPHA
    return hints.alpha


def _normalises(present: bool, said: Mapping[str, Any], hints: ImportHints, assumed: list[str]) -> bool:
    there = "in" if present else "none"
    spoken = said.get("ffn_adapter_layernorm_option")
    if present and spoken == "out":
        raise ValueError(
            "its extractors normalise what they add (ffn_adapter_layernorm_option out), not what they read"
        )
    if spoken not in (None, there):
        raise ValueError(f"its options say ffn_adapter_layernorm_option {spoken}, its tensors are those of {there}")
    _agree("--layer-norm", hints.layer_norm, there)
    if present and spoken is None and hints.layer_norm is None:
        assumed.append("layer_norm in, and not on what the extractors add")
    return present


def _number(spoken: object) -> float:
    try:
        number = float(str(spoken))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"its options say ffn_adapter_scalar {spoken}, which is no number")
    return number


def _agree(option: str, given: object, found: object) -> None:
    if given not in (None, found):
        raise UsageError(
            f"{option} {given} contradicts the checkpoint", why=f"the file says {found}", fix=f"leave {option} out"
        )
