"""The family tree of an entry, as data: from its backbone through its ancestors down to everything made from it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mwactl.errors import MwactlError
from mwactl.files import sha256_bytes
from mwactl.registry.blobs import BlobStore
from mwactl.registry.entry import Entry
from mwactl.registry.manifest import parse_manifest
from mwactl.registry.reference import parse_reference
from mwactl.registry.store import Registry

_ANY_PARENTS, _NO_PARENTS = b'"parents":[', b'"parents":[]'
_PARENTS = re.compile(rb'"parents":\[([^\]]*)\]')
_CHUNK_BYTES = 1 << 14  # most manifests have less: one system call then
_DIGEST = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class Member:
    """One of the family: a backbone, or something made from it."""

    depth: int
    """How far from the root: it was made from the nearest member above it that is one less deep."""
    made: str
    """How: `backbone`, `injected`, `trained`, `imported`, `merged`, `exported`, or the manifest's own kind; `unknown`
    where there is no manifest to say it."""
    digest: str | None
    """The manifest's SHA-256; None for a backbone."""
    references: list[str]
    """What it is called in this registry (`coco@3`); empty for a backbone and for what has no name here."""
    state: str
    """`here`, `missing` (its manifest is not in this registry) or `corrupt`."""
    facts: dict[str, Any]
    """Of a backbone: name, fingerprint, weights. Else, where known: method, data, recipe digest, seed, steps."""
    other_parents: list[str]
    """What else it was made from, outside this family: references, or digests."""
    evaluations: list[dict[str, Any]]
    """What was measured: data, split, digest, protocol, counts, recalls and RSUM; the newest last."""
    shown: bool
    """Whether the tree was asked for about this one."""
    again: bool
    """Whether its branch is above already (what was merged has more than one parent)."""


@dataclass(frozen=True)
class FamilyTree:
    """The whole family."""

    members: list[Member]
    """From the backbone down, each before what was made from it: the order in which a tree is drawn."""
    unread: list[str]
    """Versions whose manifest cannot be read: whether they belong to this family is not known."""

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def family_tree(registry: Registry, entry: Entry) -> FamilyTree:
    """An entry's ancestors and descendants, without the other branches of its ancestors.

    Every manifest of the registry is read and hashed for the descendants: a parent does not know its children.
    """
    references = registry.references()
    manifests = {_digest_of(manifest): manifest for manifest in registry.lineage(entry)}
    descendants, unread = _descendants(BlobStore(registry.root), entry.digest, references)
    return FamilyTree(_Family(registry, entry, references, manifests | descendants).members(), unread)


def _digest_of(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("digest") or manifest["missing"])


def _descendants(
    blobs: BlobStore, ancestor: str, references: Mapping[str, list[str]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The manifests made from `ancestor`, from their children, and so on; and the references that cannot be read."""
    directory = str(blobs.path(ancestor).parents[1])
    mentioning: dict[str, set[str]] = {}
    contents: dict[str, bytes] = {}
    unread: list[str] = []
    for digest, names in references.items():
        data = _verified(directory, digest)
        if data is None:
            unread += names
        elif data.count(_NO_PARENTS) < data.count(_ANY_PARENTS):
            contents[digest] = data
            for parent in _mentioned_parents(data):
                mentioning.setdefault(parent, set()).add(digest)
    found: dict[str, dict[str, Any]] = {}
    queue = [ancestor]
    for parent in queue:  # grows while it is walked: breadth first
        for digest in sorted(mentioning.get(parent, set()) - found.keys()):
            try:
                manifest = parse_manifest(contents[digest], where=f"sha256:{digest[:12]}…")
            except MwactlError:  # the bytes are what they were: a newer version wrote them
                unread += references[digest]
                continue
            if parent in manifest["parents"]:
                found[digest] = manifest | {"digest": digest}
                queue.append(digest)
    return found, sorted(set(unread))


def _verified(blobs: str, digest: str) -> bytes | None:
    """The bytes of a manifest, or None. Without pathlib, which takes as long as all else where there are 10,000."""
    try:
        descriptor = os.open(f"{blobs}/{digest[:2]}/{digest}", os.O_RDONLY)
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
            if len(data) == _CHUNK_BYTES:
                data += os.read(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return data if sha256_bytes(data) == digest else None


def _mentioned_parents(data: bytes) -> set[str]:
    """The digests in lists called "parents", without parsing the JSON: most manifests are no relatives."""
    return {digest.decode() for listed in _PARENTS.findall(data) for digest in _DIGEST.findall(listed)}


class _Family:
    """Puts the manifests of a family in the order of a drawing; each branch is drawn once."""

    def __init__(
        self,
        registry: Registry,
        entry: Entry,
        references: Mapping[str, list[str]],
        manifests: Mapping[str, dict[str, Any]],
    ) -> None:
        self._registry = registry
        self._entry = entry
        self._references = references
        self._manifests = manifests
        self._children: dict[str, list[str]] = {}
        for digest, manifest in manifests.items():
            for parent in manifest.get("parents", ()):
                self._children.setdefault(parent, []).append(digest)

    def members(self) -> list[Member]:
        """All of them; a backbone comes before the oldest ancestors that were made from it."""
        oldest = self._in_order(digest for digest, each in self._manifests.items() if not self._parents(each))
        by_backbone: dict[str, list[str]] = {}
        bases: dict[str, dict[str, Any] | None] = {}
        for digest in oldest:
            base = self._base(digest)
            identity = "" if base is None else str(base.get("fingerprint", base["backbone"]))
            bases.setdefault(identity, base)
            by_backbone.setdefault(identity, []).append(digest)
        drawn: dict[str, None] = {}
        found: list[Member] = []
        for identity, digests in by_backbone.items():
            base = bases[identity]
            if base is not None:
                found.append(_backbone(base))
            found += self._branches(digests, 0 if base is None else 1, drawn)
        return found

    def _branches(self, digests: list[str], depth: int, drawn: dict[str, None]) -> Iterator[Member]:
        """Depth first, without recursion: a long line of versions is no deeper for Python than a short one."""
        stack = [(digest, depth) for digest in reversed(digests)]
        while stack:
            digest, level = stack.pop()
            again = digest in drawn
            drawn[digest] = None
            yield self._member(digest, level, again=again)
            if not again:
                below = self._in_order(self._children.get(digest, ()))
                stack += [(child, level + 1) for child in reversed(below)]

    def _parents(self, manifest: Mapping[str, Any]) -> list[str]:
        return [parent for parent in manifest.get("parents", ()) if parent in self._manifests]

    def _in_order(self, digests: Iterable[str]) -> list[str]:
        """By their first reference; what has no name comes last."""

        def key(digest: str) -> tuple[bool, str, int, str]:
            names = self._references.get(digest)
            if not names:
                return (True, "", 0, digest)
            first = parse_reference(names[0])
            return (False, first.name, first.version or 0, digest)

        return sorted(set(digests), key=key)

    def _base(self, digest: str) -> dict[str, Any] | None:
        """The backbone of an entry; where its manifest is gone, that of the nearest descendant."""
        queue = [digest]
        for each in queue:  # grows while it is walked: breadth first
            base = self._manifests[each].get("base")
            if isinstance(base, dict) and base.get("backbone"):
                return base
            queue += [child for child in self._in_order(self._children.get(each, ())) if child not in queue]
        return None

    def _member(self, digest: str, depth: int, *, again: bool) -> Member:
        manifest = self._manifests[digest]
        shown = digest == self._entry.digest
        absent = "missing" in manifest
        return Member(
            depth=depth,
            made="unknown" if absent else _how_made(manifest),
            digest=digest,
            references=self._references.get(digest) or ([self._entry.reference] if shown else []),
            state="corrupt" if "problem" in manifest else "missing" if absent else "here",
            facts={} if absent or again else _facts(manifest),
            other_parents=[
                (self._references.get(parent) or [parent])[0]
                for parent in manifest.get("parents", ())
                if parent not in self._manifests
            ],
            evaluations=[] if absent or again else self._evaluations(digest, manifest),
            shown=shown,
            again=again,
        )

    def _evaluations(self, digest: str, manifest: dict[str, Any]) -> list[dict[str, Any]]:
        """Those attached under any name; damaged ones are left out here (`Registry.attachments` names them)."""
        subjects = {reference.partition("@")[0]: reference for reference in self._references.get(digest, [])}
        entries = [Entry(name, 0, digest, manifest, "") for name in subjects]
        if digest == self._entry.digest and self._entry.name not in subjects:
            entries.append(self._entry)
        found: dict[str, dict[str, Any]] = {}
        for entry in entries:
            for attached in self._registry.attachments(entry, "evaluation"):
                if "problem" not in attached:
                    found[str(attached["digest"])] = attached
        return [_evaluated(each["document"]) for each in sorted(found.values(), key=lambda each: str(each["created"]))]


def _backbone(base: dict[str, Any]) -> Member:
    facts = {key: base.get(key) for key in ("backbone", "fingerprint", "parameters", "weights")}
    return Member(
        depth=0, made="backbone", digest=None, references=[], state="here", facts=facts, other_parents=[],
        evaluations=[], shown=False, again=False,
    )  # fmt: skip


def _how_made(manifest: Mapping[str, Any]) -> str:
    kind = str(manifest["kind"])
    if kind != "adapter":
        return {"onnx": "exported"}.get(kind, kind)
    if manifest.get("imported"):
        return "imported"
    if manifest.get("combined"):
        return "combined"
    if manifest.get("train"):
        return "trained"
    return "injected" if manifest.get("method") else kind


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the tree says about an entry; a fact that is absent is left out, for the registry prescribes none."""
    train = manifest.get("train")
    train = train if isinstance(train, dict) else {}
    method, data = manifest.get("method"), manifest.get("data")
    facts = {
        "method": method.get("name") if isinstance(method, dict) else None,
        "recipe_digest": train.get("recipe_digest"),
        "seed": train.get("seed"),
        "steps": train.get("steps"),
        "best_epoch": train.get("best_epoch"),
        "imported": manifest.get("imported"),
        "combined": manifest.get("combined"),
        "data": data if isinstance(data, list) else None,
    }
    return {name: value for name, value in facts.items() if value not in (None, [])}


def _evaluated(document: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation says, in short; what it lacks is None."""
    data = document.get("data")
    data = data if isinstance(data, dict) else {}
    short = {name: data.get(name) for name in ("name", "split", "digest")}
    numbers = ("protocol", "images", "texts", "rsum", "zero_shot", "image_to_text", "text_to_image")
    return short | {name: document.get(name) for name in numbers}
