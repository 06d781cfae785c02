"""Inject: fresh modules on a frozen backbone, counted and published as an untrained version."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mwactl.adapter import AdaptedModel, MultiWayAdapter, inject
from mwactl.adapter.serialise import to_bytes
from mwactl.backbone import WeightsRequest, find_spec
from mwactl.backbone.fingerprint import fingerprint
from mwactl.backbone.local_folder import LOCAL_DIR
from mwactl.config import parse_recipe
from mwactl.config.recipe import MethodConfig
from mwactl.errors import UsageError
from mwactl.files import canonical_json
from mwactl.registry import Entry, Registry
from mwactl.train.memory import MemoryEstimate, estimate_memory
from mwactl.workflow.facts import ADAPTER, ADAPTER_FILE, adapter_facts
from mwactl.workflow.place import portable_name, remember


@dataclass(frozen=True)
class Injection:
    """What an injection did, or would do.

    Args:
        entry: The published version; None for a dry run.
        model: The injected model; on the meta device for a dry run.
        fingerprint: Of the backbone; None for a dry run, which reads no weights.
        memory: The estimate of training's memory; None unless asked for.
    """

    entry: Entry | None
    model: AdaptedModel
    fingerprint: str | None
    memory: MemoryEstimate | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `mwactl inject`."""
        adapter = self.model.adapter
        none = {"knowledge_extractor": 0, "alignment_enhancer": 0}
        modules = none | (adapter.module_counts() if adapter else {})
        return {
            "schema": 1,
            "adapter": None if self.entry is None else self.entry.reference,
            "backbone": {
                "name": self.model.backbone.spec.name,
                "parameters": self.model.backbone.count_parameters(),
                "fingerprint": self.fingerprint,
            },
            "method": self.model.method.name,
            "trainable_parameters": self.model.trainable_count(),
            "sites": len(adapter.sites) if isinstance(adapter, MultiWayAdapter) else 0,
            "modules": modules,
            "weights": self.model.backbone.weights.as_dict(),
            "missing_in_weights": sorted(self.model.backbone.untrained_parameter_names()),
            "memory": None if self.memory is None else self.memory.as_dict(),
        }


def default_name(backbone: str, method: str) -> str:
    """An adapter's name when none is given: `clip-vit-b-32-mwa`; a folder gives its own name."""
    stem = portable_name(backbone).rpartition(LOCAL_DIR)[2]
    spelled = re.sub(r"[^a-z0-9._-]+", "-", f"{stem}-{method}".lower())
    return re.sub(r"\.+", ".", spelled).strip("-._")[:64].rstrip(".")


def method_of_options(options: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> MethodConfig:
    """The method with these options, held to the same rules as a recipe's.

    Args:
        options: `method.…=VALUE`, as on the command line.
        given: The recipe's section `method` that they are applied to.

    Raises:
        UsageError: An option is none of the method's.
        RecipeError: Options have values that they cannot have, or do not go together.
    """
    if foreign := [option for option in options if not option.startswith("method.")]:
        raise UsageError(
            f"inject takes options of the method alone, not {foreign[0]!r}",
            fix="--name, --backbone, --weights and --seed say the rest; mwactl help config lists method.…",
        )
    recipe = {"name": "unnamed", "backbone": {"name": "none"}, "data": {"name": "none"}, "method": dict(given or {})}
    return parse_recipe(canonical_json(recipe).decode(), "the arguments", options).recipe.method


def plan_injection(backbone_name: str, method: MethodConfig) -> Injection:
    """Count everything on the meta device, in seconds, and write nothing.

    Raises:
        NotFoundError: No such backbone.
        IncompatibleError: A tower cannot host modules.
    """
    plugin, spec = find_spec(backbone_name)
    model = inject(plugin.build_without_weights(spec), method)
    return Injection(entry=None, model=model, fingerprint=None, memory=estimate_memory(model))


def inject_adapter(
    registry: Registry, backbone_name: str, method: MethodConfig, *, name: str, weights: WeightsRequest, seed: int = 0
) -> Injection:
    """Build the backbone with its weights, inject, and publish the untrained adapter.

    Raises:
        NotFoundError: No such backbone, or its weights are not on this machine.
        IncompatibleError: The weights are another model's, or a tower cannot host modules.
    """
    plugin, spec = find_spec(backbone_name)
    backbone = plugin.build(spec, weights)
    identity = fingerprint(backbone)
    model = inject(backbone, method, seed=seed)
    return Injection(entry=publish_untrained(registry, model, identity, name=name), model=model, fingerprint=identity)


def publish_untrained(registry: Registry, model: AdaptedModel, identity: str, *, name: str) -> Entry:
    """Publish an injected model's adapter. Publishing the same one again gives the version there is."""
    return publish_once(registry, model, identity, {}, name=name, verb="inject")


def publish_once(
    registry: Registry,
    model: AdaptedModel,
    identity: str,
    more: Mapping[str, Any],
    *,
    name: str,
    parents: Sequence[str] = (),
    verb: str,
) -> Entry:
    """Publish an adapter that was not trained here, or give the version of this name that is the same.

    Args:
        registry: Where.
        model: The adapted model.
        identity: The backbone's fingerprint.
        more: Facts that go into the manifest beside those that every adapter has.
        name: The adapter's name.
        parents: Manifest digests of the entries that it was made from.
        verb: What made it, for the history.
    """
    state = model.adapter_state()
    facts = {**adapter_facts(model, identity, state), "train": None, "data": [], "metrics": [], **more}
    same = {**facts, "kind": ADAPTER, "parents": list(parents)}
    for entry in registry.entries(name):
        if isinstance(entry, Entry) and all(entry.manifest.get(fact) == value for fact, value in same.items()):
            remember(registry, entry, model.backbone)
            return entry
    content = to_bytes(state, {"kind": ADAPTER, "method": model.method.name, "base": identity})
    files = {ADAPTER_FILE: content}
    entry = registry.publish(name, kind=ADAPTER, files=files, facts=facts, parents=parents, verb=verb)
    remember(registry, entry, model.backbone)
    return entry
