"""Building an open_clip model from its configuration, and loading its weights."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint
from torch import nn

from mwactl.backbone.spec import RANDOM, BackboneSpec, WeightsRequest, WeightsUsed
from mwactl.errors import IncompatibleError, NotFoundError, UsageError
from mwactl.files import sha256_file
from mwactl_clip.backbone import ClipBackbone, ClipConfig
from mwactl_clip.names import CONFIG_FILE, LOCAL_DIR
from mwactl_clip.weights import find_weights, network


def build(spec: BackboneSpec, request: WeightsRequest) -> ClipBackbone:
    """Build the model in fp32 on the CPU and load its weights.

    Raises:
        NotFoundError: No such model, or its weights are not on this machine.
        IncompatibleError: The weights are another model's.
    """
    source = request.source or spec.default_weights
    config = _configuration(spec, source)
    with network(allowed=request.download):
        if source == RANDOM:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(request.seed)
                model = _instantiate(config)
            used = WeightsUsed(RANDOM, seed=request.seed)
        else:
            path = find_weights(spec, source, download=request.download)
            model = _instantiate(config)
            _load(model, path, spec)
            used = WeightsUsed(_weights_name(source, path), path=path.resolve(), file_sha256=sha256_file(path))
    return ClipBackbone(spec, used, model, config)


def build_without_weights(spec: BackboneSpec) -> ClipBackbone:
    """Build the model on the meta device: every shape, no memory.

    Raises:
        NotFoundError: No such model.
    """
    config = _configuration(spec, spec.default_weights)
    with network(allowed=False), torch.device("meta"):
        model = _instantiate(config)
    return ClipBackbone(spec, WeightsUsed("none"), model, config)


def _configuration(spec: BackboneSpec, source: str | None) -> ClipConfig:
    """The model's configuration: from the folder, or open_clip's own with what the pretrained tag changes."""
    if spec.model.startswith(LOCAL_DIR):
        return _folder_configuration(Path(spec.model.removeprefix(LOCAL_DIR)))
    model_cfg = open_clip.get_model_config(spec.model)
    if model_cfg is None:
        raise NotFoundError(
            f"open_clip has no model `{spec.model}`",
            where=spec.name,
            fix="python -c 'import open_clip; print(*open_clip.list_models())'  lists them",
        )
    preprocess: dict[str, Any] = {}
    if source and source != RANDOM and (tag := open_clip.get_pretrained_cfg(spec.model, source)):
        preprocess = {key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if tag.get(key)}
        # The activation belongs to the weights: QuickGELU weights under a GELU model are silently wrong.
        model_cfg["quick_gelu"] = bool(tag.get("quick_gelu", False))
    return ClipConfig(model_cfg=model_cfg, preprocess=preprocess, folder=None)


def _folder_configuration(folder: Path) -> ClipConfig:
    file = folder / CONFIG_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        model_cfg, preprocess = document["model_cfg"], document.get("preprocess_cfg", {})
        model_cfg["vision_cfg"], model_cfg["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise IncompatibleError(
            "not an open_clip configuration", where=str(file), why=f"{type(error).__name__}: {error}"
        ) from error
    return ClipConfig(model_cfg=model_cfg, preprocess=preprocess, folder=folder)


def _instantiate(config: ClipConfig) -> nn.Module:
    """The open_clip model with random values, as `open_clip.create_model` would make it without any weights."""
    arguments = deepcopy(config.model_cfg)
    text, vision = arguments["text_cfg"], arguments["vision_cfg"]
    custom_text = arguments.pop("custom_text", False)
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        custom_text = True
        text["hf_model_pretrained"] = False
        text["hf_model_name"] = _text_model_source(text["hf_model_name"], config.folder)
    if "multimodal_cfg" in arguments:
        return open_clip.CoCa(**arguments)  # type: ignore[no-any-return]
    return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**arguments)  # type: ignore[no-any-return]


def _text_model_source(name: str, folder: Path | None) -> str:
    """The Hugging Face text model's name; a relative path is resolved inside the model's own folder."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "this model's text tower needs the package transformers",
            where=name,
            fix="pip install 'mwactl[hf-text]'",
        ) from error
    if folder is not None and (folder / name).is_dir():
        return str((folder / name).resolve())
    return name


def _load(model: nn.Module, path: Path, spec: BackboneSpec) -> None:
    """Load a checkpoint strictly; open_clip converts old layouts and resizes position tables."""
    try:
        load_checkpoint(model, str(path), strict=True, weights_only=True)
    except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        raise IncompatibleError(
            f"these weights are not those of {spec.name}",
            where=str(path),
            why=" ".join(str(error).split())[:300],
            fix="--weights FILE with this model's own weights",
        ) from error


def _weights_name(source: str | None, path: Path) -> str:
    return "file" if source is None or Path(source) == path else source
