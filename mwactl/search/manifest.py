"""The one file that says what a collection is and which parts belong to it: what it does not list does not exist.

Every change (a part, an index, a compaction) is files written under new names, and then this file, replaced whole. So
a process killed at any point leaves the collection as it was before, or as it is after, and perhaps a file that nobody
lists, which the next writer removes.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mwactl.errors import IncompatibleError, NotFoundError, VerificationError
from mwactl.files import atomic_write
from mwactl.search.encoder import Encoder
from mwactl.search.item import What

FILE_NAME = "manifest.json"
KIND = "mwactl-embeddings"
_PART_NAME = re.compile(r"part-\d{5,}")
_GRAPH_NAME = re.compile(r"index\.usearch\.\d+")


@dataclass(frozen=True)
class File:
    """A file's digest and length, to know it again."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Part:
    """Finished rows: `NAME.vectors.npy` and `NAME.rows.jsonl`. Never changed, only left out of a later manifest."""

    name: str
    rows: int
    vectors: File
    items: File
    replaces: dict[str, list[int]] = field(default_factory=dict)
    """Rows of earlier parts, by part, whose pictures changed since: this part has them anew."""

    @property
    def vectors_name(self) -> str:
        """The file of the vectors."""
        return f"{self.name}.vectors.npy"

    @property
    def items_name(self) -> str:
        """The file of what the rows are."""
        return f"{self.name}.rows.jsonl"


@dataclass(frozen=True)
class Graph:
    """An approximate index in a file of its own. Its keys are the rows of `parts`, numbered through."""

    name: str
    generation: int
    parts: list[str]
    file: File


@dataclass(frozen=True)
class Model:
    """Who made the embeddings."""

    reference: str
    """What `mwactl search` opens: a registry reference, or the folder of a bundle."""

    identity: str
    preprocess: str


@dataclass(frozen=True)
class Manifest:
    """What a collection is."""

    model: Model
    width: int
    dtype: Literal["float16", "float32"]
    what: What
    sources: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    next_part: int = 0
    """The number of the next part. Numbers are never used twice, so that a deleted row cannot come to mean another."""
    graph: Graph | None = None
    generation: int = 0
    """How many approximate indexes there have been."""

    @property
    def rows(self) -> int:
        """Rows in all parts, also those that are deleted or replaced."""
        return sum(part.rows for part in self.parts)

    def with_part(self, part: Part) -> Manifest:
        """The same with one more part."""
        return replace(self, parts=[*self.parts, part], next_part=self.next_part + 1)

    def check_model(self, encoder: Encoder, name: str, where: Path, *, instead: str) -> None:
        """Refuse an encoder whose embeddings cannot be compared with these; `instead` says how the right one is given.

        Raises:
            IncompatibleError: Other weights, another precision, or other preprocessing.
        """
        told = (("model", self.model.identity, encoder.identity),
                ("preprocessing", self.model.preprocess, encoder.preprocess_digest),
                ("width", str(self.width), str(encoder.width)))  # fmt: skip
        for what, mine, other in told:
            if mine != other:
                raise IncompatibleError(
                    f"{name} is another {what} than the one that made these embeddings",
                    where=str(where),
                    why=f"they were made by {self.model.reference}, {what} {mine}; {name} has {other}",
                    fix=f"{instead}, or embed with {name} into another folder",
                )

    def check_holds(self, what: What, dtype: str | None, where: Path) -> None:
        """Refuse to mix pictures with captions, or two precisions.

        Raises:
            IncompatibleError: The collection holds the other.
        """
        for mine, other in ((self.what, what), (self.dtype, dtype)):
            if other is not None and mine != other:
                raise IncompatibleError(
                    f"this folder holds {mine}, not {other}", where=str(where),
                    why="a folder holds embeddings of one kind", fix="give -o another folder",
                )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Make this the state of the collection.

        Raises:
            ResourceError: The disk is full.
        """
        document = {"schema": 1, "kind": KIND, **asdict(self)}
        atomic_write(folder / FILE_NAME, (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))


def read_manifest(folder: Path) -> Manifest:
    """What the collection in a folder is.

    Raises:
        NotFoundError: There is none.
        IncompatibleError: It is something else's manifest, or a newer version's.
        VerificationError: The manifest is damaged.
    """
    path = folder / FILE_NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            "no embeddings here", where=str(folder), why=f"there is no {FILE_NAME}",
            fix=f"mwactl embed MODEL PICTURES -o {shlex.quote(str(folder))}",
        ) from error  # fmt: skip
    try:
        document = json.loads(data)
        kind, schema = document["kind"], document["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if kind != KIND or schema != 1:
        raise IncompatibleError(
            "this folder holds something else", where=str(path), why=f"its manifest says {kind!r}, schema {schema!r}",
            fix="give the folder that mwactl embed wrote, or install a newer mwactl",
        )  # fmt: skip
    try:
        return _parsed(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _parsed(document: dict[str, Any]) -> Manifest:
    parts = [
        Part(p["name"], int(p["rows"]), File(**p["vectors"]), File(**p["items"]), dict(p["replaces"]))
        for p in document["parts"]
    ]
    graph = document["graph"] and Graph(**document["graph"] | {"file": File(**document["graph"]["file"])})
    if document["dtype"] not in ("float16", "float32") or document["what"] not in ("images", "texts"):
        raise ValueError(f"dtype {document['dtype']!r}, what {document['what']!r}")
    names = [part.name for part in parts]
    # A name leads to a file that is opened, and one day removed: it may not lead elsewhere.
    wrong = [name for name in names if not _PART_NAME.fullmatch(name)]
    if wrong or len(set(names)) < len(names) or (graph and not _GRAPH_NAME.fullmatch(graph.name)):
        raise ValueError(f"names that no part or index has: {wrong or names}")
    return Manifest(
        model=Model(**document["model"]),
        width=int(document["width"]),
        dtype=document["dtype"],
        what=document["what"],
        sources=list(document["sources"]),
        parts=parts,
        next_part=int(document["next_part"]),
        graph=graph,
        generation=int(document["generation"]),
    )


def _damaged(path: Path, why: str) -> VerificationError:
    return VerificationError(
        "the manifest of the embeddings is damaged", where=str(path), why=why,
        fix="restore it from a copy, or embed into a new folder",
    )  # fmt: skip
