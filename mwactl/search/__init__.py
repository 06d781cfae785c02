"""Collections of embeddings: made from pictures or captions, indexed where they are many, and searched."""

from mwactl.search.embed import Embedded, EmbedOptions, embed
from mwactl.search.encoder import Encoder
from mwactl.search.index import ChangedError, Hits, SearchIndex, open_index
from mwactl.search.item import Item
from mwactl.search.maintain import build_index, compact, delete_ids, repair_parts

__all__ = [
    "ChangedError",
    "EmbedOptions",
    "Embedded",
    "Encoder",
    "Hits",
    "Item",
    "SearchIndex",
    "build_index",
    "compact",
    "delete_ids",
    "embed",
    "open_index",
    "repair_parts",
]
