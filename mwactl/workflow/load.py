"""From a reference to a model: bytes verified, backbone identified, every tensor matched, and the canary heard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mwactl.adapter import AdaptedModel, MergedModel, check_active, folded_structure, inject
from mwactl.adapter.serialise import from_bytes
from mwactl.backbone import BackbonePlugin, WeightsRequest, find_spec
from mwactl.backbone.checkpoint import map_safetensors
from mwactl.backbone.contract import Backbone
from mwactl.backbone.fingerprint import fingerprint, tensors_digest
from mwactl.backbone.local_folder import LOCAL_DIR
from mwactl.backbone.spec import RANDOM, BackboneSpec, WeightsUsed
from mwactl.errors import IncompatibleError, NotFoundError, UsageError, VerificationError
from mwactl.registry import Entry, Registry
from mwactl.workflow.facts import ADAPTER, ADAPTER_FILE, MERGED, MERGED_FILE, architecture_digest, method_of
from mwactl.workflow.place import Place, portable_name, recall


def build_backbone(name: str, weights: WeightsRequest) -> Backbone:
    """A backbone by name, with weights.

    Raises:
        NotFoundError: No such backbone or weights.
        IncompatibleError: The weights are another model's.
    """
    plugin, spec = find_spec(name)
    return plugin.build(spec, weights)


def load_model(
    registry: Registry,
    entry: Entry,
    *,
    backbone_name: str | None = None,
    weights: str | None = None,
    download: bool = False,
) -> AdaptedModel | MergedModel:
    """The model of a published adapter or of a merged one, on the CPU, in evaluation mode.

    Args:
        registry: Where the entry is.
        entry: The adapter, or what `mwactl merge` made of it.
        backbone_name: Its backbone's name now, where a folder has moved.
        weights: As of `load_adapted`; a merged model has its own.
        download: Whether the network may be used for the backbone's weights, or a merged model's tokenizer.

    Raises:
        UsageError: Weights are given for a merged model.
        MwactlError: As `load_adapted` and `load_merged`.
    """
    if entry.manifest["kind"] != MERGED:
        return load_adapted(registry, entry, backbone_name=backbone_name, weights=weights, download=download)
    if weights is not None:
        raise UsageError(
            f"{entry.reference} needs no --weights", why="a merged model holds its own", fix="leave --weights out"
        )
    return load_merged(registry, entry, backbone_name=backbone_name, download=download)


def load_merged(
    registry: Registry, entry: Entry, *, backbone_name: str | None = None, download: bool = False
) -> MergedModel:
    """A merged model, from its own file alone; of its backbone nothing but the configuration and the tokenizer is used.

    Raises:
        NotFoundError: The backbone's folder, or its tokenizer, is not here.
        VerificationError: The file is damaged.
        IncompatibleError: The backbone computes otherwise than the one it was made from, or a tensor does not fit.
    """
    base, place = entry.manifest["base"], recall(registry, entry)
    file = registry.verified_path(entry, MERGED_FILE)
    plugin, spec = _spec(place, backbone_name)
    used = _weights_used(place, base["weights"])
    if used.source not in (RANDOM, "file"):  # a tag may decide on what is no tensor, such as the activation
        spec = replace(spec, default_weights=used.source)
    if download and spec.tokenizer is not None and spec.tokenizer.url:
        plugin.pull(spec, spec.tokenizer.tag, registry.reporter)
    backbone = plugin.build_without_weights(spec)
    backbone.weights = used
    if architecture_digest(backbone) != entry.manifest["merged"]["architecture"]:
        raise IncompatibleError(
            f"{entry.reference} was made from another {portable_name(base['backbone'])}",
            where=spec.name,
            why="sizes, activation, picture normalisation or tokenizer differ",
            fix="--backbone with the folder that it was made from, or merge the adapter again: mwactl merge REF",
        )
    model = folded_structure(backbone, method_of(entry))
    model.load_complete_state(map_safetensors(file), where=entry.reference)
    return model


def load_adapted(
    registry: Registry,
    entry: Entry,
    *,
    backbone_name: str | None = None,
    weights: str | None = None,
    download: bool = False,
) -> AdaptedModel:
    """The adapted model of a published adapter, on the CPU, in evaluation mode.

    Args:
        registry: Where the entry is.
        entry: The adapter.
        backbone_name: Its backbone's name now, where a folder has moved.
        weights: A weights file or tag, where the one it was made with has moved.
        download: Whether the network may be used for the backbone's weights.

    Raises:
        VerificationError: The adapter's bytes are damaged, or it does not change the output.
        MwactlError: As `load_untrained`.
    """
    state = adapter_tensors(registry, entry)
    model = load_untrained(registry, entry, backbone_name=backbone_name, weights=weights, download=download)
    model.load_adapter_state(state)
    check_active(model)
    return model


def adapter_tensors(registry: Registry, entry: Entry) -> dict[str, Tensor]:
    """The tensors of a published adapter.

    Raises:
        IncompatibleError: It is no adapter.
        VerificationError: Its bytes are damaged.
    """
    if entry.manifest["kind"] != ADAPTER:
        raise IncompatibleError(
            f"{entry.reference} is no adapter",
            why=f"its kind is `{entry.manifest['kind']}`",
            fix=f"mwactl registry show {entry.reference}   (what it was made from)",
        )
    state, _ = from_bytes(registry.read(entry, ADAPTER_FILE), where=entry.reference)
    if tensors_digest(state) != entry.manifest["tensors"]["digest"]:
        raise VerificationError("the adapter's tensors are not those of its manifest", where=entry.reference)
    return state


def load_untrained(
    registry: Registry,
    entry: Entry,
    *,
    backbone_name: str | None = None,
    weights: str | None = None,
    download: bool = False,
) -> AdaptedModel:
    """The backbone of a published adapter with fresh modules on it: what the adapter was before it was trained.

    Args:
        registry: Where the entry is.
        entry: The adapter.
        backbone_name: As of `load_adapted`; so are the others.
        weights: A weights file or tag.
        download: Whether the network may be used.

    Raises:
        NotFoundError: The backbone or its weights are not here.
        IncompatibleError: The backbone is not the one it was trained on, or its method is not known here.
    """
    base = entry.manifest["base"]
    method = method_of(entry)
    place = recall(registry, entry)
    request = _weights_request(place, base["weights"], backbone_name, weights, download)
    backbone = _backbone(place, backbone_name, replace(request, reporter=registry.reporter))
    found = fingerprint(backbone)
    if found != base["fingerprint"]:
        raise IncompatibleError(
            f"{entry.reference} was made on another {portable_name(base['backbone'])}",
            where=str(backbone.weights.path or backbone.weights.source),
            why=f"fingerprint {found[:19]}…, the adapter's is {base['fingerprint'][:19]}…",
            fix="--weights FILE with the weights it was made on",
        )
    return inject(backbone, method)


def _backbone(place: Place, name: str | None, request: WeightsRequest) -> Backbone:
    """The backbone of an adapter; whether it is the right one, its fingerprint decides."""
    with _naming_the_folder(place, name):
        return build_backbone(name or place.backbone, request)


def _spec(place: Place, name: str | None) -> tuple[BackbonePlugin, BackboneSpec]:
    with _naming_the_folder(place, name):
        return find_spec(name or place.backbone)


@contextmanager
def _naming_the_folder(place: Place, name: str | None) -> Iterator[None]:
    """Where a backbone that lay in a folder is not found, say how to name the folder it is in now."""
    try:
        yield
    except NotFoundError as error:
        if portable_name(place.backbone) == place.backbone or name is not None:
            raise
        family = place.backbone.partition(":")[0]
        error.fix = f"mwactl eval REF --backbone {family}:{LOCAL_DIR}FOLDER --data …   (its folder now); {error.fix}"
        raise


def _weights_used(place: Place, recorded: dict[str, Any]) -> WeightsUsed:
    """The weights that a merged model was made from; the file need not be here any more."""
    path = None if place.weights is None else Path(place.weights)
    return WeightsUsed(recorded["source"], path, recorded.get("file_sha256"), recorded.get("seed"))


def _weights_request(
    place: Place, recorded: dict[str, Any], name: str | None, given: str | None, download: bool
) -> WeightsRequest:
    """The weights the adapter was made with, unless others are given."""
    if given is not None:
        return WeightsRequest(given, download=download)
    if recorded["source"] == RANDOM:
        return WeightsRequest(RANDOM, seed=recorded["seed"], download=download)
    if recorded["source"] == "file":
        # A file that has moved: the backbone may know where its own weights lie now (a folder, the package).
        here = name is None and place.weights is not None and Path(place.weights).is_file()
        return WeightsRequest(place.weights if here else None, download=download)
    return WeightsRequest(recorded["source"], download=download)
