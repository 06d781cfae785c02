"""Quickstart: one adapter's whole life on bundled pictures, with no network, in about a minute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mwactl.adapter import AdaptedModel
from mwactl.backbone import WeightsRequest
from mwactl.backbone.contract import Backbone
from mwactl.config import LoadedRecipe, load_recipe
from mwactl.data import CaptionedImages, Catalogue
from mwactl.evaluate.encode import encode_split
from mwactl.evaluate.ranks import retrieval_ranks
from mwactl.home import home
from mwactl.progress import Reporter, Silent
from mwactl.quickstart.assets import unpack
from mwactl.quickstart.sheet import SheetRow, SheetTitles, contact_sheet, most_changed
from mwactl.registry import Entry, Registry
from mwactl.workflow.evaluate import EvaluationOptions, evaluate_adapter, evaluate_backbone
from mwactl.workflow.load import build_backbone, load_adapted
from mwactl.workflow.splits import checked_split
from mwactl.workflow.train import Trained, train_recipe

RECIPE = "quickstart"
_OPTIONS = EvaluationOptions(device="cpu", workers=0)
_GAINED, _LOST = 6, 2
_HITS = 5


@dataclass(frozen=True)
class Quickstart:
    """What the quickstart did.

    Args:
        entry: The trained adapter.
        before: The evaluation of the bare backbone on the test split.
        after: The evaluation of the adapter on the same split.
        trained: The run.
        sheet: The contact sheet, a PNG.
    """

    entry: Entry
    before: dict[str, Any]
    after: dict[str, Any]
    trained: Trained
    sheet: Path


def quickstart(
    registry: Registry, *, overrides: Sequence[str] = (), sheet: Path | None = None, reporter: Reporter | None = None
) -> Quickstart:
    """Adapt the bundled `clip-tiny-emoji`, which knows one drawing style of emoji, to another style.

    Args:
        registry: Where the adapter is published.
        overrides: Recipe options, such as `train.epochs=2`.
        sheet: Where the contact sheet goes; by default below MWACTL_HOME.
        reporter: Who is told.

    Raises:
        ResourceError: The disk is full.
    """
    with _one_thread():
        return _quickstart(registry, load_recipe(RECIPE, overrides), sheet, reporter or Silent())


def _quickstart(registry: Registry, loaded: LoadedRecipe, sheet: Path | None, reporter: Reporter) -> Quickstart:
    recipe = loaded.recipe
    folder = home() / "quickstart"
    annotations, images = unpack("noto", folder)
    Catalogue.default().add(
        recipe.data.name, format="karpathy", annotations=annotations, images=images, replace=True, reporter=reporter
    )
    test = checked_split(recipe.data.name, "test", on_error="stop", reporter=reporter)
    backbone = build_backbone(recipe.backbone.name, WeightsRequest(recipe.backbone.weights))
    reporter.info(f"evaluating {backbone.spec.name} as it is")
    before = evaluate_backbone(backbone, test, _OPTIONS, reporter).document
    searched_before = _search(backbone, backbone, test.dataset)
    reporter.info(f"injecting MWA and training it on the {recipe.data.train_split} split")
    trained = train_recipe(registry, loaded, restart=True, reporter=reporter)
    reporter.info(f"evaluating {trained.entry.reference}")
    after = evaluate_adapter(registry, trained.entry, test, _OPTIONS, reporter).document
    adapted = load_adapted(registry, trained.entry)
    target = sheet or folder / "contact-sheet.png"
    _draw(test.dataset, searched_before, _search(adapted, adapted.backbone, test.dataset), target)
    return Quickstart(trained.entry, before, after, trained, target)


@dataclass(frozen=True)
class _Search:
    """What every caption of a split finds.

    Args:
        hits: The best pictures, best first, [t, 5].
        ranks: The rank of the own picture, [t].
    """

    hits: NDArray[np.int64]
    ranks: NDArray[np.int64]


def _search(model: AdaptedModel | Backbone, backbone: Backbone, dataset: CaptionedImages) -> _Search:
    embeddings = encode_split(
        model, dataset, transform=backbone.image_transform(), tokenize=backbone.tokenize, workers=0
    )
    scores = embeddings.texts @ embeddings.images.T  # [t, e] @ [e, i] -> [t, i]
    hits: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :_HITS]
    return _Search(hits, retrieval_ranks(embeddings.images, embeddings.texts, dataset.pairs).text_to_image)


def _draw(dataset: CaptionedImages, before: _Search, after: _Search, target: Path) -> None:
    def row(caption: int) -> SheetRow:
        own = dataset.pairs[dataset.pairs[:, 1] == caption, 0]
        return SheetRow(
            query=dataset.captions[caption],
            note=f"rank {before.ranks[caption]} to {after.ranks[caption]}",
            own=tuple(dataset.images[image] for image in own),
            before=tuple(dataset.images[image] for image in before.hits[caption]),
            after=tuple(dataset.images[image] for image in after.hits[caption]),
        )

    chosen = most_changed(before.ranks.tolist(), after.ranks.tolist(), gained=_GAINED, lost=_LOST)
    title = (
        "Searching Noto drawings with a CLIP that learnt Twemoji: "
        f"the {_GAINED} captions that gained most and the {_LOST} that lost most"
    )
    contact_sheet(
        [row(caption) for caption in chosen], target, SheetTitles(title, "clip-tiny-emoji", "with the adapter")
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in their last bits: with one, the numbers are the same on any core count."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
