"""The contract of a backbone as a list of checks, all of which are made before one of them fails the test."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Collection
from pathlib import Path

from mwactl.backbone import WeightsRequest, find_spec, plugins
from mwactl.backbone.contract import Backbone
from mwactl.errors import NotFoundError, UsageError
from mwactl.testing import embeddings, facts, inputs, methods, sites, weights
from mwactl.testing.subject import Check, Refused, Subject

CHECKS: dict[str, Check] = {
    "found by name": facts.found_by_name,
    "built for inference": facts.built_for_inference,
    "sizes": facts.sizes,
    "parameter names": facts.parameter_names,
    "architecture": facts.architecture,
    "without weights": weights.without_weights,
    "same weights again": weights.same_again,
    "state dict": weights.all_in_the_state_dict,
    "tokenizer": inputs.tokenizer,
    "transform": inputs.transform,
    "portable": inputs.portable,
    "embeddings": embeddings.form,
    "determinism": embeddings.determinism,
    "batch independence": embeddings.batch_independence,
    "padding": embeddings.padding,
    "half precision": embeddings.half_precision,
    "sites": sites.names,
    "stable sites": sites.stability,
    "attaching": sites.attaching,
    "untrained modules": sites.untrained,
    "computation": sites.computation,
    "modalities apart": sites.apart,
    "gradients": sites.gradients,
    "detaching": sites.detaching,
    "folding": methods.folding,
    "graphs": methods.graphs,
    "linear maps": methods.linear_maps,
    "compilation": methods.compilation,
    "sharding": methods.sharding,
}
"""What is checked, by name; what each asks for is its docstring."""


def check_backbone(
    backbone: str | Backbone,
    *,
    weights: str | None = None,
    seed: int = 0,
    only: Collection[str] = CHECKS.keys(),
) -> dict[str, str]:
    """Check that a backbone keeps the contract, point by point: seconds for a small one.

    Args:
        backbone: Its name; or one that is built, of which copies are checked.
        weights: Of a name: a file, a tag, `random`, or None for its default.
        seed: Of `random`.
        only: Names of `CHECKS`.

    Returns:
        What the contract lets a backbone leave out and this one does leave out: the check's name, and why.

    Raises:
        AssertionError: It does not keep the contract; says all that is wrong, a sentence each.
        NotFoundError: No such backbone, its plugin is not installed, or its weights are not on this machine.
        UsageError: There is no check of a name in `only`.
    """
    if unknown := sorted(set(only) - CHECKS.keys()):
        raise UsageError(f"there is no check called {unknown[0]!r}", why=f"there are {', '.join(CHECKS)}")
    subject = _subject(backbone, weights, seed)
    problems: list[str] = []
    refused: dict[str, str] = {}
    for name in (name for name in CHECKS if name in only):
        try:
            problems += [f"{name}: {problem}" for problem in CHECKS[name](subject)]
        except Refused as reason:
            refused[name] = str(reason)
        except Exception as error:  # whatever a plugin raises: the other checks are made all the same
            problems.append(f"{name}: {_raised(error)}")
    if problems:
        count = f"{len(problems)} point" + ("s" if len(problems) > 1 else "")
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise AssertionError(f"{subject.spec.name} does not keep the contract of a backbone in {count}:\n{lines}")
    return refused


def _subject(backbone: str | Backbone, source: str | None, seed: int) -> Subject:
    if isinstance(backbone, str):
        plugin, spec = find_spec(backbone)
        request = WeightsRequest(source, seed)
        return Subject(spec, plugin, request, plugin.build(spec, request), lambda: plugin.build(spec, request))
    used, spec = backbone.weights, backbone.spec
    if spec.family not in plugins():
        raise NotFoundError(
            f"no installed package provides the backbone family `{spec.family}`",
            why="`mwactl.backbones` has no entry point of this name",
            fix="pip install -e FOLDER  (after a change of its entry points too)",
        )
    file = None if used.path is None else str(used.path)
    request = WeightsRequest(file or used.source, seed if used.seed is None else used.seed)
    return Subject(spec, plugins()[spec.family], request, backbone, lambda: copy.deepcopy(backbone))


def _raised(error: Exception) -> str:
    """An exception as a sentence, with the last place before torch that it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "torch" not in Path(f.filename).parts]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"
