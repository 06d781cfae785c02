"""What a card is about: one entry with its results, in the form that every part of the card reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from mwactl.registry import Entry, Registry

LICENCE_TAG = "license"
LICENCE_LINK_TAG = "license_link"
BASE_MODEL_TAG = "base_model"
RECALLS = ("R@1", "R@5", "R@10")

_UNSAID = {"", "unknown", "other", "none"}
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Evaluation:
    """One result: the newest on its data and protocol."""

    data: str
    split: str
    digest: str
    protocol: str
    images: int | None
    texts: int | None
    image_to_text: dict[str, float]
    """"R@1", … in percent, "median_rank", …; so for the other direction."""
    text_to_image: dict[str, float]
    rsum: float | None
    zero_shot: bool
    """Whether any evaluation on this very data was checked to be on pictures that no training saw."""
    seen: bool
    """Whether the split was trained on, or chose the epoch."""
    intervals: dict[str, Any]
    """What the evaluation says of its uncertainty: `level`, and `[low, high]` under the names of the metrics."""

    def interval(self, *path: str) -> tuple[float, float] | None:
        """Of one metric (`text_to_image`, `R@1`), if there is one."""
        found: Any = self.intervals
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return (float(found[0]), float(found[1])) if isinstance(found, list) and len(found) == 2 else None


@dataclass(frozen=True)
class Subject:
    """An entry and everything else the card is made from."""

    entry: Entry
    base: dict[str, Any]
    method: dict[str, Any]
    train: dict[str, Any]
    data: list[dict[str, Any]]
    tensors: dict[str, Any]
    imported: dict[str, Any]
    """Facts of the manifest; empty where it has none. Of what it was made from as well: `data` and `imported`."""
    merged: dict[str, Any]
    """Of a backbone with an adapter in its weights: how it was shown to be the same; empty for an adapter."""
    combined: dict[str, Any]
    """Of an adapter that is a weighted sum of others: `weights` and `scale`."""
    trained: bool
    """Whether it, or something that it was made from, was trained anywhere."""
    evaluations: list[Evaluation]
    timing: dict[str, Any]
    """The newest attachment `training`."""
    curve: list[dict[str, Any]]
    """Validation by epoch, where that attachment has it: `epoch`, `rsum`."""
    missing_ancestors: int
    """Of its lineage: how many are not in this registry, or corrupt."""
    licence: str | None
    """The version's tag `license`; None where it says that nothing is known."""
    licence_link: str | None
    """The version's tag `license_link`."""
    base_model: str | None
    """The version's tag `base_model`: the backbone's repository on the Hub."""
    problems: list[str]
    """Attachments that cannot be read, and are therefore not in the card."""

    @property
    def backbone(self) -> str | None:
        """The backbone's name, the same on every machine."""
        name = self.base.get("backbone")
        return None if name is None else without_folder(str(name))


def read_subject(registry: Registry, entry: Entry) -> Subject:
    """Collect what the registry knows of an entry.

    Raises:
        VerificationError: The name's tags are damaged.
    """
    manifest = entry.manifest
    lineage = registry.lineage(entry)
    data = _used_in(lineage)
    imported = next((found for ancestor in lineage if (found := _document(ancestor.get("imported")))), {})
    attached = registry.attachments(entry)
    timing = [each["document"] for each in attached if each["kind"] == "training" and "problem" not in each]
    words = registry.tags(entry.name).get(entry.version, {}) if entry.name in registry.names() else {}
    licence = words.get(LICENCE_TAG, "").strip()
    newest = timing[-1] if timing else {}
    return Subject(
        entry=entry,
        base=_document(manifest.get("base")),
        method=_document(manifest.get("method")),
        train=_document(manifest.get("train")),
        data=data,
        tensors=_document(manifest.get("tensors")),
        imported=imported,
        merged=_document(manifest.get("merged")),
        combined=_document(manifest.get("combined")),
        trained=bool(imported) or any(ancestor.get("train") for ancestor in lineage),
        evaluations=_evaluations(attached, data),
        timing=newest,
        curve=[each for each in _documents(newest.get("validation")) if {"epoch", "rsum"} <= each.keys()],
        missing_ancestors=sum("missing" in ancestor for ancestor in lineage),
        licence=None if licence.lower() in _UNSAID else licence,
        licence_link=words.get(LICENCE_LINK_TAG),
        base_model=words.get(BASE_MODEL_TAG),
        problems=[str(each["problem"]) for each in attached if "problem" in each],
    )


def is_hub_id(name: object) -> bool:
    """Whether this can be the name of a repository on the Hub: `NAME` or `ORGANISATION/NAME`."""
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None


def without_folder(text: str) -> str:
    """A backbone's name or a weights file without the place where it lies on one machine."""
    family, marker, path = text.rpartition("local-dir:")
    if marker or path.startswith("~") or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
        return f"{family}{marker}{PureWindowsPath(path).name}"  # it knows both kinds of slashes
    return text


def _evaluations(attached: list[dict[str, Any]], trained_on: list[dict[str, Any]]) -> list[Evaluation]:
    newest: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for each in attached:
        document = each["document"]
        data = _document(document.get("data"))
        if each["kind"] != "evaluation" or not data:
            continue
        name, split, digest = (str(data.get(fact)) for fact in ("name", "split", "digest"))
        key = (name, split, digest, str(document.get("protocol", "full")))
        unseen = bool(document.get("zero_shot")) or newest.pop(key, {}).get("zero_shot", False)
        newest[key] = {**document, "zero_shot": unseen}
    seen = {used.get("digest") for used in trained_on}
    return [
        Evaluation(
            data=name,
            split=split,
            digest=digest,
            protocol=protocol,
            images=document.get("images"),
            texts=document.get("texts"),
            image_to_text=_document(document.get("image_to_text")),
            text_to_image=_document(document.get("text_to_image")),
            rsum=document.get("rsum"),
            zero_shot=document["zero_shot"],
            seen=digest in seen or any((used.get("name"), used.get("split")) == (name, split) for used in trained_on),
            intervals=_document(document.get("intervals")),
        )
        for (name, split, digest, protocol), document in newest.items()
    ]


def _used_in(lineage: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The data that an entry and all that it was made from were trained on, each once."""
    used: list[dict[str, Any]] = []
    for ancestor in lineage:
        used += [each for each in _documents(ancestor.get("data")) if each not in used]
    return used


def _document(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _documents(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
