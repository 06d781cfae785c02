"""Adopt: an adapter that another program trained becomes a version in the registry, with its own backbone beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mwactl.adapter import check_active, inject
from mwactl.backbone import BackbonePlugin, WeightsRequest, find_spec, plugins
from mwactl.backbone.checkpoint import write_weights
from mwactl.backbone.digests import known_sha256, record_path, recorded_sha256
from mwactl.backbone.fingerprint import fingerprint
from mwactl.backbone.spec import ForeignAdapter, ImportHints, ImportsAdapters
from mwactl.errors import IncompatibleError, NotFoundError, UsageError, VerificationError
from mwactl.home import weights_path
from mwactl.registry import Registry
from mwactl.registry.reference import checked_name
from mwactl.workflow.inject import Injection, default_name, method_of_options, publish_once


@dataclass(frozen=True)
class Adoption:
    """What was taken over, or would be.

    Args:
        injection: The adapter on its backbone; without an entry and on the meta device for a dry run.
        foreign: What was read.
        file: Where from.
        name: The adapter's name in the registry.
        backbone_file: Where the backbone's weights lie, or would.
    """

    injection: Injection
    foreign: ForeignAdapter
    file: Path
    name: str
    backbone_file: Path

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `mwactl registry add`."""
        document = self.injection.as_dict()
        del document["memory"]
        return document | {
            "name": self.name,
            "options": dict(self.foreign.options),
            "imported": _origin(self.foreign, self.file),
            "backbone_file": str(self.backbone_file),
            "assumed": list(self.foreign.assumed),
        }


def plan_adoption(
    file: Path, *, name: str | None = None, backbone: str | None = None, hints: ImportHints | None = None
) -> Adoption:
    """Read the file and fit its adapter on the meta device; nothing is kept of it.

    Args:
        file: A checkpoint of another program.
        name: The adapter's name; None: the backbone's, and that the authors made it.
        backbone: The backbone's name; None: the one whose sizes the file has.
        hints: What the file may not say itself.

    Raises:
        NotFoundError: No such file, or no such backbone.
        VerificationError: The file is damaged, or wants to run code.
        UsageError: The name cannot be used, or a hint contradicts the file.
        IncompatibleError: There is no adapter in it, or none that can be expressed here.
    """
    if name is not None:
        checked_name(name)
    if not file.is_file():
        raise NotFoundError("no checkpoint here", where=str(file), fix="--from-authors FILE with a file that exists")
    hints = hints or ImportHints()
    if hints.alpha is not None and not math.isfinite(hints.alpha):
        raise UsageError(f"--alpha {hints.alpha}: not a number that can scale anything", fix="--alpha 0.1")
    foreign = _read(file, backbone, hints)
    plugin, spec = find_spec(foreign.backbone)
    model = inject(plugin.build_without_weights(spec), method_of_options(given={"mwa": dict(foreign.options)}))
    model.load_adapter_state(foreign.tensors)
    return Adoption(
        injection=Injection(entry=None, model=model, fingerprint=None),
        foreign=foreign,
        file=file,
        name=name or default_name(foreign.backbone, "authors"),
        backbone_file=weights_path() / f"{file.stem}-backbone-{foreign.sha256[:12]}.safetensors",
    )


def adopt_adapter(registry: Registry, plan: Adoption, *, download: bool = False) -> Adoption:
    """Keep the backbone, put the adapter on it, see that it acts, and publish it: all of that, or nothing.

    Adopting the same file again gives the version there is.

    Args:
        registry: Where it is published.
        plan: What `plan_adoption` gave.
        download: Whether the network may be used for the backbone's tokenizer.

    Raises:
        NotFoundError: The backbone's tokenizer is not on this machine.
        IncompatibleError: The backbone in the file is not the one that it seemed to be.
        VerificationError: The adapter does not act, or gives values that are not finite.
        ResourceError: No space.
    """
    foreign = plan.foreign
    plugin, spec = find_spec(foreign.backbone)
    with _kept(plan.backbone_file, foreign):
        weights = WeightsRequest(str(plan.backbone_file), download=download, reporter=registry.reporter)
        backbone = plugin.build(spec, weights)
        identity = fingerprint(backbone)
        model = inject(backbone, plan.injection.model.method)
        model.load_adapter_state(foreign.tensors)
        check_active(model)
        origin = {"imported": _origin(foreign, plan.file)}
        entry = publish_once(registry, model, identity, origin, name=plan.name, verb="import")
    return Adoption(Injection(entry, model, identity), foreign, plan.file, plan.name, plan.backbone_file)


def _read(file: Path, backbone: str | None, hints: ImportHints) -> ForeignAdapter:
    """The file, read by the family that the user names, or else by the first that knows it."""
    candidates: list[BackbonePlugin]
    if backbone is not None:
        named, spec = find_spec(backbone)
        if not isinstance(named, ImportsAdapters):
            raise IncompatibleError(
                f"the family `{named.family}` cannot take over adapters of another program",
                where=backbone,
                fix="leave --backbone out, or name the backbone that the adapter was trained on",
            )
        candidates = [named]
    else:
        spec, candidates = None, list(plugins().values())
    for plugin in candidates:
        if isinstance(plugin, ImportsAdapters) and (foreign := plugin.read_foreign(file, spec, hints)) is not None:
            return foreign
    raise IncompatibleError(
        "there is no adapter in this file",
        where=str(file),
        why=f"no tensor in it has a name that the authors' program gives to modules on {backbone or 'a backbone'}",
        fix="--from-authors FILE with a checkpoint that their training wrote",
    )


@contextmanager
def _kept(path: Path, foreign: ForeignAdapter) -> Iterator[None]:
    """The backbone's weights as a file of their own; one that was not there before goes again after an error."""
    new = not path.is_file()
    try:
        if not _is_as_recorded(path):
            write_weights(path, foreign.weights)
        yield
    except BaseException:
        if new:
            path.unlink(missing_ok=True)
            record_path(path).unlink(missing_ok=True)
        raise


def _is_as_recorded(path: Path) -> bool:
    try:
        return path.is_file() and known_sha256(path) == recorded_sha256(path)
    except VerificationError:  # the record is damaged: both are made again
        return False


def _origin(foreign: ForeignAdapter, file: Path) -> dict[str, Any]:
    """Where an adapter came from, as its manifest says it; what it was trained on is not known."""
    return {"from": "authors", "file": file.name, "sha256": foreign.sha256, "assumed": list(foreign.assumed)}
