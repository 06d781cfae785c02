"""The samples of a tar shard as items: pictures with what lies beside them, or captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mwactl.data.shard import read_samples
from mwactl.search.item import Item, What


def read_shard(shard: Path, what: What) -> Iterator[Item]:
    """The samples of a shard that have a picture (or a caption), in its order.

    Raises:
        DataError: It is no whole tar file, or a JSON or a text in it cannot be read.
    """
    for sample in read_samples(shard):
        caption = (sample.text or "").strip() or None
        picture = sample.picture
        if what == "texts" and caption is not None:
            yield Item(sample.key, str(shard), member=f"{sample.key}.txt", text=caption, fields=sample.fields)
        elif what == "images" and picture is not None:
            yield Item(
                id=sample.key,
                path=str(shard),
                stamp=tuple(picture.stamp),
                member=picture.member,
                span=(picture.offset, picture.size),
                fields=({} if caption is None else {"caption": caption}) | sample.fields,
            )
