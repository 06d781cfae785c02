"""Embed pictures or captions into a collection: what is done stays done, and running it again does the rest.

Shape notation: b a batch, n rows of a part, e the shared space.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mwactl.errors import DataError, Interrupted, VerificationError
from mwactl.files import naming_write_errors
from mwactl.progress import Progress, Reporter, Silent
from mwactl.search.decoded import decoded
from mwactl.search.encoder import Encoder
from mwactl.search.failures import FAILED_NAME, Failure, write_failures
from mwactl.search.item import Item, What
from mwactl.search.lock import check_empty, remove_leftovers, writing
from mwactl.search.manifest import FILE_NAME, Manifest, Model, read_manifest
from mwactl.search.part import write_part
from mwactl.search.plan import Plan, make_plan
from mwactl.search.sources import read_sources

_BATCH_PIXELS = 64_000_000  # of opened pictures that wait for the model: 192 MB
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed."""

    what: What = "images"
    """Pictures or captions."""

    dtype: Literal["float16", "float32"] | None = None
    """Of the stored vectors; None: the collection's own, float16 for a new one."""

    batch_size: int = 32
    """Pictures or captions at a time."""

    rows_per_part: int = 4096
    """After so many rows a part is finished: what a kill can cost at most."""


@dataclass(frozen=True)
class Embedded:
    """What a run did."""

    manifest: Manifest
    """The collection after it."""

    embedded: int
    """Rows that were made, the changed ones included."""

    changed: int
    """Of these, pictures that had been embedded before they changed."""

    unchanged: int
    """Items that were embedded before, as they are."""

    failures: list[Failure] = field(default_factory=list)
    """Pictures that could not be read (`failed.jsonl`)."""


def embed(
    folder: Path,
    encoder: Encoder,
    sources: Sequence[Path],
    *,
    reference: str,
    options: EmbedOptions | None = None,
    reporter: Reporter | None = None,
) -> Embedded:
    """Embed what the sources hold and the collection lacks.

    Pictures that cannot be read are listed in `failed.jsonl` and passed over. The same sources and the same model give
    the same files, whether the work was interrupted or not.

    Args:
        folder: The collection; made if it is not there.
        encoder: The model.
        sources: See `read_sources`.
        reference: What opens the encoder again, for `mwactl search`.
        options: What and how.
        reporter: Hears of the progress.

    Raises:
        IncompatibleError: The collection was made by another model, or holds the other of pictures and captions.
        DataError: Two items have one id, a source cannot be read, or not one picture could be.
        ResourceError: Another process writes to the collection, or the disk is full.
        VerificationError: A part of the collection is damaged, or the model's rows are not of length one.
    """
    options, reporter = options or EmbedOptions(), reporter or Silent()
    with naming_write_errors(folder):
        _opened(folder, encoder, reference, options)  # what is refused leaves no lock in a folder that is not ours
    items = list(read_sources(sources, options.what))
    with writing(folder):
        manifest = _opened(folder, encoder, reference, options)
        plan = make_plan(folder, manifest, items)
        places = dict.fromkeys(str(source.resolve()) for source in sources)
        added = [place for place in places if place not in manifest.sources]
        manifest = replace(manifest, sources=[*manifest.sources, *added])
        manifest.write(folder)
        remove_leftovers(folder, manifest)
        if plan.unchanged:
            reporter.info(f"{plan.unchanged:,} are embedded already; {len(plan.todo):,} to do")
        run = _Run(folder, encoder, manifest, plan, options, reporter)
        try:
            run.embed_all()
        except Interrupted as stop:
            kept = f"interrupted; {run.manifest.rows:,} rows are finished, the same command goes on from there"
            raise Interrupted(kept) from stop
        finally:
            write_failures(folder, run.failures, seen=plan.ids - run.waiting)
    changed = sum(item.id in plan.replaces for item in plan.todo) - sum(f.id in plan.replaces for f in run.failures)
    if run.failures and not run.embedded and not plan.unchanged:
        raise DataError(
            f"none of the {len(run.failures):,} pictures could be read",
            where=run.failures[0].place,
            why=run.failures[0].reason,
            fix=f"see {folder / FAILED_NAME}",
        )
    return Embedded(run.manifest, run.embedded, changed, plan.unchanged, run.failures)


def _opened(folder: Path, encoder: Encoder, reference: str, options: EmbedOptions) -> Manifest:
    """The collection's manifest, or a new one."""
    if not (folder / FILE_NAME).exists():
        check_empty(folder)
        model = Model(reference, encoder.identity, encoder.preprocess_digest)
        return Manifest(model, encoder.width, options.dtype or "float16", options.what)
    manifest = read_manifest(folder)
    again = f"embed with {manifest.model.reference}"
    manifest.check_model(encoder, reference, folder, instead=again)
    manifest.check_holds(options.what, options.dtype, folder)
    return manifest


class _Run:
    """One run's rows on their way into parts."""

    def __init__(
        self, folder: Path, encoder: Encoder, manifest: Manifest, plan: Plan, options: EmbedOptions, reporter: Reporter
    ) -> None:
        self.manifest = manifest
        self.embedded = 0
        self.failures: list[Failure] = []
        #: The ids that are in no finished part yet.
        self.waiting = {item.id for item in plan.todo}
        self._folder, self._encoder, self._plan, self._options = folder, encoder, plan, options
        self._reporter = reporter
        self._items: list[Item] = []
        self._rows: list[NDArray[np.float32]] = []
        self._began = time.monotonic()

    def embed_all(self) -> None:
        progress = self._reporter.progress("embed", len(self._plan.todo))
        try:
            if self._options.what == "texts":
                self._embed_texts(progress)
            else:
                self._embed_pictures(progress)
            self._finish_part()
        finally:
            progress.close()

    def _embed_texts(self, progress: Progress) -> None:
        todo, start = self._plan.todo, 0
        while start < len(todo):
            batch = todo[start : start + self._room()]
            self._take(batch, self._encoder.encode_texts([item.text or "" for item in batch]), progress)
            start += len(batch)

    def _embed_pictures(self, progress: Progress) -> None:
        batch: list[tuple[Item, Image.Image]] = []
        pixels = 0
        for item, picture in decoded(self._plan.todo):
            if isinstance(picture, Failure):
                self.failures.append(picture)
                progress.advance()
                continue
            batch.append((item, picture))
            pixels += picture.width * picture.height
            if len(batch) >= self._room() or pixels >= _BATCH_PIXELS:
                self._take_pictures(batch, progress)
                batch, pixels = [], 0
        if batch:
            self._take_pictures(batch, progress)

    def _take_pictures(self, batch: list[tuple[Item, Image.Image]], progress: Progress) -> None:
        rows = self._encoder.encode_images([picture for _, picture in batch], len(batch))
        self._take([item for item, _ in batch], rows, progress)

    def _room(self) -> int:
        """How many the next batch may have. None reaches over a part's end, so that a run that goes on after a kill
        computes the very batches that one without a kill computes."""
        return min(self._options.batch_size, self._options.rows_per_part - len(self._items))

    def _take(self, items: Sequence[Item], rows: NDArray[np.float32], progress: Progress) -> None:
        _check_rows(rows, (len(items), self.manifest.width), self.manifest.model.reference)
        self._items += items
        self._rows.append(rows)
        self.embedded += len(items)
        seconds = time.monotonic() - self._began
        progress.advance(len(items), note=f"{self.embedded / seconds:,.1f}/s" if seconds else "")
        if len(self._items) == self._options.rows_per_part:
            self._finish_part()

    def _finish_part(self) -> None:
        """Write the rows that are there as a part, and let the manifest list it."""
        if not self._items:
            return
        vectors = np.concatenate(self._rows).astype(self.manifest.dtype)
        replaces: dict[str, list[int]] = {}
        for item in self._items:
            if item.id in self._plan.replaces:
                old_part, row = self._plan.replaces[item.id]
                replaces.setdefault(old_part, []).append(row)
        part = write_part(self._folder, f"part-{self.manifest.next_part:05}", vectors, self._items, replaces)
        self.manifest = self.manifest.with_part(part)
        self.manifest.write(self._folder)
        self.waiting.difference_update(item.id for item in self._items)
        self._items, self._rows = [], []


def _check_rows(rows: NDArray[np.float32], shape: tuple[int, int], reference: str) -> None:
    """What is stored is searched for years: a model that computes nonsense is told now."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1) if rows.shape == shape else np.zeros(1)
    if not np.allclose(lengths, 1, rtol=0, atol=_UNIT_TOLERANCE):  # also where they are not finite
        raise VerificationError(
            "the model's embeddings are not unit rows",
            where=reference,
            why=f"shape {rows.shape} for {shape}, lengths {lengths.min():.4g} to {lengths.max():.4g}",
            fix="check it with: mwactl eval, or the bundle's golden values",
        )
