"""Building an open_clip model from its configuration, and loading its weights."""

from __future__ import annotations

import difflib
import json
import pickle
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint
from safetensors import SafetensorError
from torch import nn

from mwactl.backbone.spec import RANDOM, BackboneSpec, WeightsRequest, WeightsUsed
from mwactl.errors import IncompatibleError, NotFoundError, UsageError
from mwactl.files import sha256_file
from mwactl_clip.backbone import ClipBackbone
from mwactl_clip.config import ClipConfig
from mwactl_clip.hugging_face_blocks import TEXT_HOSTS
from mwactl_clip.names import CONFIG_FILE, LOCAL_DIR
from mwactl_clip.weights import find_weights, network

# What a file that holds no weights, or another model's, ends in (open_clip reads keys and shapes as it converts).
_LOADING_ERRORS = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, LookupError, ValueError, AttributeError, TypeError,
    StopIteration, EOFError, OSError,
)  # fmt: skip


def build(spec: BackboneSpec, request: WeightsRequest) -> ClipBackbone:
    """Build the model in fp32 on the CPU and load its weights.

    Raises:
        NotFoundError: No such model, or its weights are not on this machine.
        IncompatibleError: The weights are another model's.
    """
    source = request.source or spec.default_weights
    config = _configuration(spec, source)
    with network(allowed=request.download), torch.random.fork_rng(devices=[]):
        if source == RANDOM:
            torch.manual_seed(request.seed)
            model = _instantiate(config)
            used = WeightsUsed(RANDOM, seed=request.seed)
        else:
            path = find_weights(spec, source, download=request.download, reporter=request.reporter)
            model = _instantiate(config)
            _load(model, path, spec)
            used = WeightsUsed(_weights_name(source, path), path=path.resolve(), file_sha256=sha256_file(path))
    backbone = ClipBackbone(spec, used, model, config)
    if request.download:
        backbone.load_tokenizer(download=True)
    return backbone


def build_without_weights(spec: BackboneSpec, *, download: bool = False) -> ClipBackbone:
    """Build the model on the meta device: every shape, no memory.

    Args:
        spec: The model.
        download: Whether the configuration of a Hugging Face text tower may be fetched.

    Raises:
        NotFoundError: No such model.
    """
    config = _configuration(spec, spec.default_weights)
    with network(allowed=download), torch.device("meta"):
        model = _instantiate(config)
    return ClipBackbone(spec, WeightsUsed("none"), model, config)


def _configuration(spec: BackboneSpec, source: str | None) -> ClipConfig:
    """The model's configuration: from the folder, or open_clip's own with what the pretrained tag changes."""
    if spec.model.startswith(LOCAL_DIR):
        return _folder_configuration(Path(spec.model.removeprefix(LOCAL_DIR)))
    models = open_clip.list_models()
    if spec.model not in models:  # asked before `get_model_config`, which would download an `hf-hub:` name
        close = difflib.get_close_matches(spec.model, models, n=3, cutoff=0.5)
        raise NotFoundError(
            f"open_clip has no model `{spec.model}`",
            where=spec.name,
            why=f"did you mean {' or '.join(f'`{match}`' for match in close)}?" if close else None,
            fix="python -c 'import open_clip; print(*open_clip.list_models())'  lists them",
        )
    model_cfg = open_clip.get_model_config(spec.model)
    preprocess: dict[str, Any] = {}
    # A file, or random values, say nothing of themselves: they are taken as the default weights' kind.
    for tag in (source, spec.default_weights):
        if tag and (facts := open_clip.get_pretrained_cfg(spec.model, tag)):
            preprocess = {key: facts[key] for key in ("mean", "std", "interpolation", "resize_mode") if facts.get(key)}
            # The activation belongs to the weights: QuickGELU weights under a GELU model are silently wrong.
            model_cfg["quick_gelu"] = bool(facts.get("quick_gelu", False))
            break
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
    model_class = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    if "multimodal_cfg" in arguments:
        model_class = open_clip.CoCa
    try:
        if "hf_model_name" in text:
            _check_kind_of_text_model(text["hf_model_name"])
        return model_class(**arguments)  # type: ignore[no-any-return]
    except TypeError as error:
        if config.folder is None:
            raise
        raise IncompatibleError(
            "not an open_clip configuration", where=str(config.folder / CONFIG_FILE), why=str(error)
        ) from error
    except OSError as error:
        if "hf_model_name" not in text:
            raise
        raise NotFoundError(
            "the text tower's configuration is not on this machine",
            where=text["hf_model_name"],
            why=" ".join(str(error).split())[:200],
            fix="add --download once, so that it is cached",
        ) from error


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


def _check_kind_of_text_model(name: str) -> None:
    from transformers import AutoConfig

    try:
        kind = AutoConfig.from_pretrained(name).model_type
    except ValueError as error:
        raise IncompatibleError(
            "transformers knows no such text tower", where=name, why=" ".join(str(error).split())[:200]
        ) from error
    if kind not in TEXT_HOSTS:
        raise IncompatibleError(
            f"open_clip has no text tower of the kind `{kind}`", where=name, why=f"it has {', '.join(TEXT_HOSTS)}"
        )


def _load(model: nn.Module, path: Path, spec: BackboneSpec) -> None:
    """Load a checkpoint strictly; open_clip converts old layouts and resizes position tables."""
    if _is_torch_script(path):
        published = "openai" in open_clip.list_pretrained_tags_by_model(spec.model)
        raise IncompatibleError(
            "these weights are a TorchScript archive, as OpenAI published its own",
            where=str(path),
            why="it is a program; mwactl loads tensors alone and runs nothing from a file",
            fix="--weights openai --download  (the same weights, as safetensors)"
            if published
            else "--weights FILE with a state dict (torch.save) or safetensors",
        )
    try:
        load_checkpoint(model, str(path), strict=True, weights_only=True)
    except _LOADING_ERRORS as error:
        raise IncompatibleError(
            f"these weights are not those of {spec.name}",
            where=str(path),
            why=" ".join(str(error).split())[:300],
            fix="--weights FILE with this model's own weights",
        ) from error


def _is_torch_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False  # what is wrong with it, loading says


def _weights_name(source: str | None, path: Path) -> str:
    return "file" if source is None or Path(source).expanduser() == path else source
