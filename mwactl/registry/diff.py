"""What differs between two entries: every fact of their manifests, their results side by side, files, and tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mwactl.errors import VerificationError
from mwactl.registry.entry import Entry
from mwactl.registry.store import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_UNCOMPARED = frozenset({"schema", "files", "metrics"})
"""The manifest's keys that are compared in their own way."""


@dataclass(frozen=True)
class Difference:
    """A fact that the two manifests do not share."""

    section: str
    """`recipe`, `method`, `base`, `data`, `seed`, `versions`, or the manifest's own key."""
    key: str
    """The path within the section, with dots: `train.lr`; a data set is `coco train.images`."""
    a: Any
    """The first entry's value; None where it has none."""
    b: Any
    """The second entry's."""
    only: str | None
    """`a` or `b`, where the other has no such fact."""


@dataclass(frozen=True)
class Metric:
    """A result that at least one of them has; results on data with different digests are never compared."""

    data: str
    """The data set and its split, and the protocol where it is not `full`."""
    digest: str | None
    """Of the data."""
    metric: str
    """`text_to_image.R@1`, `rsum`, …"""
    a: float | None
    b: float | None
    difference: float | None
    """b - a, where both have it."""


@dataclass(frozen=True)
class FileDifference:
    """A file by its path."""

    path: str
    same: bool
    """Whether both have it with the same bytes."""
    a: str | None
    """The first entry's SHA-256; None where it has no such file."""
    b: str | None
    a_bytes: int | None
    b_bytes: int | None


@dataclass(frozen=True)
class TensorDistance:
    """How far the tensors of one site are from each other."""

    site: str
    """`image/3`, …; what belongs to no site (trained parts of the backbone) is under its tensor's name."""
    tensors: int
    """How many were compared."""
    relative_l2: float | None
    """|a - b| / |a| over all of them as one vector; None where a is zero and b is not, or nothing was compared."""
    cosine: float | None
    """Of the angle between them; None where one of them is zero, or nothing was compared."""
    problems: list[str]
    """Tensors that only one of them has, or that differ in shape."""


@dataclass(frozen=True)
class EntryDiff:
    """Everything that differs; A and B are in the order they were given."""

    a: dict[str, str]
    """Reference and digest."""
    b: dict[str, str]
    same: bool
    """Whether the manifests, and with them all contents, are the same."""
    differences: list[Difference]
    metrics: list[Metric]
    files: list[FileDifference]
    tensors: list[TensorDistance]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def diff(registry: Registry, a: Entry, b: Entry) -> EntryDiff:
    """Compare two entries.

    Raises:
        VerificationError: A file of tensors is not what its digest says, or no safetensors file.
    """
    files = _files(a, b)
    return EntryDiff(
        a={"reference": a.reference, "digest": a.digest},
        b={"reference": b.reference, "digest": b.digest},
        same=a.digest == b.digest,
        differences=differences(a.manifest, b.manifest),
        metrics=_metrics(_results(registry, a), _results(registry, b)),
        files=files,
        tensors=[
            distance
            for file in files
            if not file.same and file.a and file.b and file.path.endswith(".safetensors")
            for distance in _tensor_distances(registry, a, b, file.path)
        ],
    )


# -- facts -------------------------------------------------------------------------------------------------------------


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """The facts in which two manifests, or parts of two, are not the same; by section and key."""
    flat_a, flat_b = (dict(_flat({key: m[key] for key in m.keys() - _UNCOMPARED})) for m in (a, b))
    found = []
    for path in sorted(flat_a.keys() | flat_b.keys()):
        if path in flat_a and path in flat_b and flat_a[path] == flat_b[path]:
            continue
        section, key = _section(path)
        only = None if path in flat_a and path in flat_b else "a" if path in flat_a else "b"
        found.append(Difference(section, key, flat_a.get(path), flat_b.get(path), only))
    return sorted(found, key=lambda each: (_place(each.section), each.section, each.key))


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every fact with its path; of a list of documents each is under its name, so that order does not matter."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, (*path, str(key)))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value, 1):
            named = " ".join(str(item[key]) for key in ("name", "split", "path") if key in item)
            yield from _flat(item, (*path, named or str(number)))
    else:
        yield path, value


_RENAMED = {("train", "recipe"): "recipe", ("train", "seed"): "seed", ("train", "versions"): "versions"}
_ORDER = ("recipe", "method", "base", "data", "seed", "versions")


def _section(path: tuple[str, ...]) -> tuple[str, str]:
    for start, name in _RENAMED.items():
        if path[: len(start)] == start:
            return name, ".".join(path[len(start) :]) or name
    return path[0], ".".join(path[1:]) or path[0]


def _place(section: str) -> int:
    return _ORDER.index(section) if section in _ORDER else len(_ORDER)


# -- results -----------------------------------------------------------------------------------------------------------


_Key = tuple[str, str | None, str]
"""What a result is about: data, the data's digest, metric."""


def _results(registry: Registry, entry: Entry) -> dict[_Key, float]:
    """Those of the manifest, then those of the evaluations: of two on the same data the newer one counts."""
    found: dict[_Key, float] = {}
    digests = {f"{used.get('name')} {used.get('split')}": used.get("digest") for used in _documents(entry, "data")}
    for each in _documents(entry, "metrics"):
        data = f"{each.get('dataset')} {each.get('split')}"
        found |= _numbers(data, digests.get(data), each)
    for attached in registry.attachments(entry, "evaluation"):
        document = attached["document"]
        data = document.get("data")
        if isinstance(data, dict):
            protocol = document.get("protocol", "full")
            where = f"{data.get('name')} {data.get('split')}" + ("" if protocol == "full" else f" {protocol}")
            numbers = {key: document.get(key) for key in ("rsum", "image_to_text", "text_to_image")}
            found |= _numbers(where, data.get("digest"), numbers)
    return found


def _documents(entry: Entry, fact: str) -> list[dict[str, Any]]:
    listed = entry.manifest.get(fact)
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _numbers(data: str, digest: str | None, document: Mapping[str, Any]) -> dict[_Key, float]:
    return {
        (data, digest, ".".join(path)): float(value)
        for path, value in _flat(document)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _metrics(a: Mapping[_Key, float], b: Mapping[_Key, float]) -> list[Metric]:
    def order(key: _Key) -> tuple[str, str, list[tuple[int, str]]]:
        return (key[0], key[1] or "", _natural(key[2]))

    return [
        Metric(*key, a.get(key), b.get(key), b[key] - a[key] if key in a and key in b else None)
        for key in sorted(a.keys() | b.keys(), key=order)
    ]


# -- files and tensors -------------------------------------------------------------------------------------------------


def _files(a: Entry, b: Entry) -> list[FileDifference]:
    files_a, files_b = ({file["path"]: file for file in entry.manifest["files"]} for entry in (a, b))
    nothing: dict[str, Any] = {}
    found = []
    for path in sorted(files_a.keys() | files_b.keys()):
        file_a, file_b = files_a.get(path, nothing), files_b.get(path, nothing)
        digests = file_a.get("sha256"), file_b.get("sha256")
        found.append(FileDifference(path, digests[0] == digests[1], *digests, file_a.get("size"), file_b.get("size")))
    return found


def _tensor_distances(registry: Registry, a: Entry, b: Entry, path: str) -> list[TensorDistance]:
    tensors_a, tensors_b = (_tensors(registry, entry, path) for entry in (a, b))
    by_site: dict[str, list[str]] = {}
    for name in sorted(tensors_a.keys() | tensors_b.keys()):
        by_site.setdefault(_site(name), []).append(name)
    return [_distance(site, by_site[site], tensors_a, tensors_b) for site in sorted(by_site, key=_natural)]


def _site(tensor: str) -> str:
    """`image/3` of `adapter.sites.image/3.knowledge_extractor.image.up.bias`; of any other tensor its whole name."""
    prefix = "adapter.sites."
    return tensor.removeprefix(prefix).partition(".")[0] if tensor.startswith(prefix) else tensor


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `image/10` after `image/9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _distance(
    site: str, names: list[str], a: Mapping[str, NDArray[np.generic]], b: Mapping[str, NDArray[np.generic]]
) -> TensorDistance:
    import numpy as np

    problems: list[str] = []
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for name in names:
        if name not in a or name not in b:
            problems.append(f"{name} is only in {'A' if name in a else 'B'}")
        elif a[name].shape != b[name].shape:
            problems.append(f"{name} is {list(a[name].shape)} in A, {list(b[name].shape)} in B")
        else:
            pairs.append((a[name].astype(np.float64).ravel(), b[name].astype(np.float64).ravel()))
    if not pairs:
        return TensorDistance(site, 0, None, None, problems)
    apart = sum(float(np.square(mine - theirs).sum()) for mine, theirs in pairs) ** 0.5
    norm_a = sum(float(np.square(mine).sum()) for mine, _ in pairs) ** 0.5
    norm_b = sum(float(np.square(theirs).sum()) for _, theirs in pairs) ** 0.5
    product = sum(float(mine @ theirs) for mine, theirs in pairs)
    relative = apart / norm_a if norm_a else None if apart else 0.0
    cosine = product / (norm_a * norm_b) if norm_a and norm_b else None
    return TensorDistance(site, len(pairs), relative, cosine, problems)


def _tensors(registry: Registry, entry: Entry, path: str) -> dict[str, NDArray[np.generic]]:
    """The tensors of a safetensors file; bfloat16, which numpy lacks, becomes float32."""
    import numpy as np
    from safetensors import SafetensorError, deserialize

    types = {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
        "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
    }  # fmt: skip
    data, where = registry.read(entry, path), f"{path} of {entry.reference}"
    fix = f"mwactl registry show {entry.reference} --json   (its recipe and facts can be compared by eye)"
    try:
        found: dict[str, NDArray[np.generic]] = {}
        for name, tensor in deserialize(data):  # type: ignore[no-untyped-call]
            values = np.frombuffer(tensor["data"], np.dtype(types[tensor["dtype"]])).reshape(tensor["shape"])
            if tensor["dtype"] == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            found[name] = values
    except SafetensorError as error:
        raise VerificationError(f"{where} is no safetensors file", why=str(error), fix=fix) from error
    except KeyError as error:
        raise VerificationError(
            f"{where} has tensors of a type that cannot be compared", why=str(error), fix=fix
        ) from error
    return found
