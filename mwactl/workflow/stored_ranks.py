"""The ranks that evaluations leave with a version: found again without a model, and without torch.

They are an attachment of their own, beside the evaluation: lists of versions read every evaluation, and need no ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mwactl.errors import VerificationError
from mwactl.evaluate.queries import QueryRanks
from mwactl.progress import Reporter
from mwactl.registry import Entry, Registry

RANKS = "ranks"


@dataclass(frozen=True, eq=False)
class RanksOf:
    """The ranks of one evaluation, and what they are of.

    Raises:
        ValueError: The ranks are of other numbers of pictures and captions.
    """

    data: str
    """The data set's name."""
    split: str
    """The split's name."""
    digest: str
    """The identity of the split's pictures and captions (`CaptionedImages.digest`)."""
    protocol: str
    """`full` or `coco-1k`."""
    precision: str
    """Of the towers."""
    images: int
    """Pictures."""
    texts: int
    """Captions."""
    ranks: QueryRanks
    """Of every query."""

    def __post_init__(self) -> None:
        """Check that the ranks are of as many pictures and captions as they say."""
        found = len(self.ranks.image_to_text), len(set(self.ranks.texts.tolist()))
        if found != (self.images, self.texts):
            raise ValueError(f"ranks of {found} pictures and captions, not of {(self.images, self.texts)}")

    @classmethod
    def of(cls, evaluation: Mapping[str, Any], ranks: QueryRanks) -> RanksOf:
        """The ranks that an evaluation's document belongs to.

        Raises:
            KeyError: The document lacks a fact.
            ValueError: It is about other data.
        """
        data = evaluation["data"]
        return cls(
            data=str(data["name"]),
            split=str(data["split"]),
            digest=str(data["digest"]),
            protocol=str(evaluation["protocol"]),
            precision=str(evaluation["precision"]),
            images=int(evaluation["images"]),
            texts=int(evaluation["texts"]),
            ranks=ranks,
        )


def keep_ranks(registry: Registry, entry: Entry, evaluation: Mapping[str, Any], ranks: QueryRanks) -> None:
    """Attach the ranks to a version, with what the evaluation's document says they are of.

    Raises:
        MwactlError: As `Registry.attach`.
    """
    facts = {key: evaluation[key] for key in ("data", "images", "texts", "protocol", "precision", "versions")}
    registry.attach(entry, RANKS, {"schema": 1, **facts, "ranks": ranks.as_dict()})


def kept_ranks(registry: Registry, entry: Entry, reporter: Reporter) -> Iterator[RanksOf]:
    """All ranks that are kept with a version, newest first; of those that cannot be read `reporter` is told."""
    for attached in reversed(registry.attachments(entry, RANKS)):
        document = attached["document"]
        try:
            if "problem" in attached:
                raise ValueError(attached["problem"])
            yield RanksOf.of(document, QueryRanks.from_dict(document["ranks"], where=entry.reference))
        except (KeyError, TypeError, ValueError, VerificationError) as error:
            reporter.warn(f"ranks kept with {entry.reference} cannot be read: {error}")
