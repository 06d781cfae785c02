"""What a list of versions says about each: backbone, method, size, the newest text-to-image R@1, aliases and tags."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from mwactl.registry.entry import BrokenEntry, Entry
from mwactl.registry.labels import Labels
from mwactl.registry.store import Registry


def summaries(registry: Registry) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for every version, and what is wrong with aliases and tags, a line each."""
    rows, problems = [], []
    for name, versions in groupby(registry.entries(), key=lambda item: item.name):
        labels = registry.labels(name)
        rows += [summary(registry, item, labels) for item in versions]
        problems += labels.problems
    return rows, problems


def summary(registry: Registry, item: Entry | BrokenEntry, labels: Labels) -> dict[str, Any]:
    """One row: `status` is `ok` or `corrupt`, `problem` says what is wrong with the entry or its evaluations."""
    row: dict[str, Any] = {
        "reference": item.reference,
        "name": item.name,
        "version": item.version,
        "aliases": labels.aliases.get(item.version, []),
        "tags": labels.tags.get(item.version, {}),
    }
    if isinstance(item, BrokenEntry):
        return row | {"status": "corrupt", "problem": item.problem}
    evaluations = registry.attachments(item, "evaluation")
    problems = [str(evaluation["problem"]) for evaluation in evaluations if "problem" in evaluation]
    return row | {
        "status": "ok",
        "problem": "; ".join(problems) or None,
        "digest": item.digest,
        "kind": item.manifest["kind"],
        "backbone": _within(item.manifest, "base", "backbone"),
        "method": _within(item.manifest, "method", "name"),
        "size_bytes": item.size_bytes,
        "text_to_image_r1": _text_to_image_r1(item, evaluations),
        "created": item.created,
    }


def _text_to_image_r1(entry: Entry, evaluations: list[dict[str, Any]]) -> float | None:
    """From the newest evaluation that has it, else from the metrics at publication."""
    at_publication = entry.manifest.get("metrics")
    documents = at_publication if isinstance(at_publication, list) else []
    documents = [*documents, *(evaluation["document"] for evaluation in evaluations)]
    for document in reversed(documents):
        for values in (document, _within(document, "values")):
            recall = _within(values, "text_to_image", "R@1")
            if isinstance(recall, int | float):
                return float(recall)
    return None


def _within(value: Any, *keys: str) -> Any:
    """`value[k1][k2]…`, or None where a fact is absent or null: the registry prescribes no facts."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
