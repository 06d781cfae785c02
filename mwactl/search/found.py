"""What a query found, with everything a page or a table shows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mwactl.search.item import Item


@dataclass(frozen=True)
class Result:
    """One hit."""

    rank: int
    """Counted from 1."""

    score: float
    """The inner product of the unit vectors: the cosine."""

    item: Item

    def as_dict(self) -> dict[str, Any]:
        """The hit for a JSON document."""
        item = self.item
        return {
            "rank": self.rank,
            "score": round(self.score, 6),
            "id": item.id,
            "path": item.path,
            "member": item.member,
            "text": item.text,
            "fields": item.fields,
        }


@dataclass(frozen=True)
class Found:
    """One query's hits."""

    query: str
    """The words, or the picture's path."""

    kind: str
    """`text` or `image`."""

    results: list[Result]
    """Best first."""

    def as_dict(self) -> dict[str, Any]:
        """The hits for a JSON document."""
        return {"query": {self.kind: self.query}, "results": [result.as_dict() for result in self.results]}
