"""Embed and search with a model by its name: a registry reference, or the folder of a bundle."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mwactl.data.picture import open_image
from mwactl.errors import DataError, NotFoundError, UsageError
from mwactl.progress import Reporter
from mwactl.registry import Registry
from mwactl.registry.folder_entry import FolderEntry
from mwactl.search import ChangedError, Embedded, EmbedOptions, Encoder, Hits, SearchIndex, embed, open_index
from mwactl.search.found import Found, Result
from mwactl.search.where import parse


@dataclass(frozen=True)
class ModelChoice:
    """A model, and how it is opened (`open_encoder`)."""

    name: str | None
    device: str = "auto"
    backbone_name: str | None = None
    weights: str | None = None
    download: bool = False


def check_text(text: Path | str | None, what: str) -> None:
    """Refuse what the shell gave and no file can be written with.

    Raises:
        UsageError: Its bytes are not UTF-8.
    """
    try:
        str(text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} is not UTF-8",
            where=ascii(str(text)),
            why="results could not name it",
            fix="type it in UTF-8, or rename the file",
        ) from error


def open_model(choice: ModelChoice) -> tuple[Encoder, str]:
    """The encoder, and the reference that leads to exactly it again.

    Raises:
        MwactlError: As `open_encoder`.
    """
    # In here: a bundle is searched with, and embedded with, on machines without torch.
    from mwactl.workflow.encoder import names_bundle, open_encoder

    check_text(choice.name, "the model's name")
    registry = Registry.default()
    if choice.name is not None and names_bundle(choice.name, registry):
        reference = str(Path(choice.name).resolve())
    else:  # `coco` may be another version tomorrow, and `./coco` another folder elsewhere
        entry = registry.resolve(choice.name)
        reference = str(entry.folder.resolve()) if isinstance(entry, FolderEntry) else entry.reference
    encoder = open_encoder(
        reference, device=choice.device, backbone_name=choice.backbone_name, weights=choice.weights,
        download=choice.download,
    )  # fmt: skip
    return encoder, reference


def embed_sources(
    choice: ModelChoice, sources: Sequence[Path], to: Path, options: EmbedOptions, reporter: Reporter
) -> tuple[Embedded, dict[str, Any]]:
    """Embed sources with a model by its name; what was done, and the document that says it.

    Raises:
        MwactlError: As `open_model` and `embed`.
    """
    check_text(to, "the folder's name")
    encoder, reference = open_model(choice)
    done = embed(to, encoder, sources, reference=reference, options=options, reporter=reporter)
    model = done.manifest.model
    return done, {
        "schema": 1,
        "folder": str(to),
        "model": {"reference": model.reference, "identity": model.identity, "preprocess": model.preprocess},
        "what": done.manifest.what,
        "width": done.manifest.width,
        "dtype": done.manifest.dtype,
        "rows": done.manifest.rows,
        "embedded": done.embedded,
        "changed": done.changed,
        "unchanged": done.unchanged,
        "failed": [{"id": one.id, "place": one.place, "reason": one.reason} for one in done.failures],
    }


@dataclass(frozen=True)
class Query:
    """What is searched for: words, or a picture."""

    text: str | None = None
    image: Path | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.image is None):
            raise UsageError("a query is words or a picture", fix='mwactl search DIR "two dogs on a beach"')
        if self.text is not None and not self.text.strip():
            raise UsageError("the query is empty", fix='mwactl search DIR "two dogs on a beach"')
        check_text(self.text or self.image, "the query" if self.text else "the picture's name")


@dataclass(frozen=True)
class SearchOptions:
    """How to search."""

    k: int = 10
    where: tuple[str, ...] = ()
    exact: bool = False


def search_collection(
    folder: Path, queries: Sequence[Query], choice: ModelChoice, options: SearchOptions, reporter: Reporter
) -> tuple[list[Found], dict[str, Any]]:
    """What each query finds in a collection, and the document that says it.

    Args:
        folder: The collection.
        queries: Either all words or all pictures.
        choice: The model; without a name, the one that made the collection.
        options: How to search.
        reporter: Hears what a user should know of how it was searched.

    Raises:
        IncompatibleError: The model is another than the collection's.
        NotFoundError: A picture is not there.
        MwactlError: As `open_index`, `open_model` and `SearchIndex.search`.
    """
    check_text(folder, "the folder's name")
    index = open_index(folder)
    parse(options.where)  # what is mistyped is told before the model is loaded
    pictures = [_opened(query.image) for query in queries if query.image is not None]
    texts = [query.text for query in queries if query.text is not None]
    if bool(texts) == bool(pictures):
        raise ValueError("queries are all words or all pictures, and at least one")
    encoder, reference = _query_encoder(index, choice)
    vectors = encoder.encode_texts(texts) if texts else encoder.encode_images(pictures)
    try:
        hits, found = _searched(index, queries, vectors, options)
    except ChangedError:  # by mwactl index, while the model was loaded
        index = open_index(folder)
        _check_model(index, encoder, reference)
        hits, found = _searched(index, queries, vectors, options)
    for note in hits.notes:
        reporter.info(note)
    model = index.manifest.model
    document = {
        "schema": 1,
        "folder": str(folder),
        "model": {"reference": model.reference, "identity": model.identity},
        "what": index.manifest.what,
        "rows": len(index),
        "method": hits.method,
        "notes": list(hits.notes),
        "queries": [one.as_dict() for one in found],
    }
    return found, document


def _opened(picture: Path) -> Image.Image:
    """The picture to search with."""
    if not picture.exists():
        raise NotFoundError("no such picture", where=str(picture), fix="check --image")
    try:
        return open_image(picture)
    except DataError as error:
        error.fix = "repair it, or search with another picture"
        raise


def _query_encoder(index: SearchIndex, choice: ModelChoice) -> tuple[Encoder, str]:
    """The model for the queries, which has to be the one that made the collection, and its reference."""
    made_by = index.manifest.model.reference
    try:
        encoder, reference = open_model(replace(choice, name=choice.name or made_by))
    except NotFoundError as error:
        if choice.name is not None:
            raise
        raise NotFoundError(
            f"the model of these embeddings, {made_by}, is not here",
            where=str(index.folder),
            why=str(error.what),
            fix=f"mwactl search {shlex.quote(str(index.folder))} … --model BUNDLE   "
            "(a folder that mwactl export wrote of it)",
        ) from error
    _check_model(index, encoder, reference)
    return encoder, reference


def _check_model(index: SearchIndex, encoder: Encoder, reference: str) -> None:
    use = f"use --model {shlex.quote(index.manifest.model.reference)}"
    index.manifest.check_model(encoder, reference, index.folder, instead=use)


def _searched(
    index: SearchIndex, queries: Sequence[Query], vectors: NDArray[np.float32], options: SearchOptions
) -> tuple[Hits, list[Found]]:
    hits = index.search(vectors, options.k, options.where, exact=options.exact)
    return hits, [_found(index, query, hits, number) for number, query in enumerate(queries)]


def _found(index: SearchIndex, query: Query, hits: Hits, number: int) -> Found:
    results = [Result(rank, score, item) for rank, (item, score) in enumerate(index.found(hits, number), start=1)]
    return Found(query.text or str(query.image), "text" if query.text else "image", results)
