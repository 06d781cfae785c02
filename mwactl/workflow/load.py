"""From a reference to a model: bytes verified, backbone identified, every tensor matched, and the canary heard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mwactl.adapter import AdaptedModel, check_active, inject
from mwactl.adapter.serialise import from_bytes
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.contract import Backbone
from mwactl.backbone.fingerprint import fingerprint, tensors_digest
from mwactl.backbone.local_folder import LOCAL_DIR
from mwactl.backbone.spec import RANDOM
from mwactl.errors import IncompatibleError, NotFoundError, VerificationError
from mwactl.registry import Entry, Registry
from mwactl.workflow.facts import ADAPTER_FILE, method_of
from mwactl.workflow.place import Place, portable_name, recall


def build_backbone(name: str, weights: WeightsRequest) -> Backbone:
    """A backbone by name, with weights.

    Raises:
        NotFoundError: No such backbone or weights.
        IncompatibleError: The weights are another model's.
    """
    plugin, spec = find_spec(name)
    return plugin.build(spec, weights)


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
        NotFoundError: The backbone or its weights are not here.
        VerificationError: The adapter's bytes are damaged, or it does not change the output.
        IncompatibleError: The backbone is not the one it was trained on, or a tensor does not fit.
    """
    base = entry.manifest["base"]
    method = method_of(entry)
    state, _ = from_bytes(registry.read(entry, ADAPTER_FILE), where=entry.reference)
    if tensors_digest(state) != entry.manifest["tensors"]["digest"]:
        raise VerificationError("the adapter's tensors are not those of its manifest", where=entry.reference)
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
    model = inject(backbone, method)
    model.load_adapter_state(state)
    check_active(model)
    return model


def _backbone(place: Place, name: str | None, request: WeightsRequest) -> Backbone:
    """The backbone of an adapter; whether it is the right one, its fingerprint decides."""
    try:
        return build_backbone(name or place.backbone, request)
    except NotFoundError as error:
        if portable_name(place.backbone) == place.backbone or name is not None:
            raise
        family = place.backbone.partition(":")[0]
        error.fix = f"mwactl eval REF --backbone {family}:{LOCAL_DIR}FOLDER --data …   (its folder now); {error.fix}"
        raise


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
