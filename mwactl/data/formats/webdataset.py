"""Tar shards in the webdataset manner: `000017.jpg` with `000017.txt` (a caption a line) or `000017.json` beside it.

The JSON may have `caption` (a text or a list of texts), `split` and `tag`; its captions are taken before the text's.
Splits are told by `split`, else by the names of the shards or of their folders (`train-000.tar`, `val/000.tar`);
without either everything is one split, `all`. Shards are not unpacked; compressed ones cannot be read in place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mwactl.data.formats.rows import Row, RowCollector
from mwactl.data.formats.shards import assigned_splits, shards_of
from mwactl.data.index_cache import remembered
from mwactl.data.picture_file import Stamp
from mwactl.data.shard import Sample, read_samples
from mwactl.data.tar_member import TarMember

SUFFIXES = frozenset({".tar"})
_READER = "webdataset 2"  # to be raised when `_entry` gives something else for the same shard


def read_webdataset(annotations: Path | None, images: Path) -> dict[str, list[Row]]:
    """Read all splits of tar shards (see `Reader`): `annotations` is the file, the folder or the pattern of them."""
    source = annotations or images
    splits = assigned_splits(shards_of(source, SUFFIXES), source)
    collector = RowCollector(source, images, absolute=False)
    for shard, split in splits.items():
        stamp = Stamp.of(shard)
        for key, place, *said in remembered(shard, _READER, lambda shard=shard: _entries(shard)):  # type: ignore[misc]
            picture = TarMember(shard, stamp, *place) if place else None
            _add(collector, f"{shard.name}:{key}", picture, said, split)
    return collector.rows()


def _entries(shard: Path) -> list[Any]:
    """What is remembered of each sample: key, place of its picture, captions, split and tag."""
    return [_entry(sample) for sample in read_samples(shard)]


def _entry(sample: Sample) -> list[Any]:
    picture, fields = sample.picture, sample.fields
    captions = fields.get("caption", fields.get("captions"))
    if captions is None and sample.text is not None:
        captions = sample.text.rstrip().split("\n")
    place = [picture.member, picture.offset, picture.size] if picture else None
    return [sample.key, place, captions, fields.get("split"), fields.get("tag")]


def _add(collector: RowCollector, where: str, picture: TarMember | None, said: list[Any], split: str | None) -> None:
    """Take a sample's rows."""
    captions, own_split, tag = said
    captions = [captions] if isinstance(captions, str) else captions
    split = own_split if own_split is not None else split
    if picture is None:
        collector.problem(where, "captions without a picture (a link is none)")
    elif not captions:
        collector.problem(where, "picture without caption (no .txt beside it, nor 'caption' in a .json)")
    elif not (isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)):
        collector.problem(where, "'caption' is neither a text nor a list of texts")
    elif not isinstance(split, str):
        collector.problem(where, "neither 'split' nor the shard's name says which split it is of")
    elif not isinstance(tag, str | None):
        collector.problem(where, "'tag' is not a text")
    else:
        for number, caption in enumerate(captions):
            # Two people may have written the same words: only its number tells a repeated row.
            collector.add(
                where, split=split, image=picture, caption=caption.rstrip("\r"), sentence=number, tag=tag or ""
            )
