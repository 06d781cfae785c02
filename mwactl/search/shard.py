"""Tar shards in the webdataset manner: the members of one key are one sample (`000017.jpg`, `.txt`, `.json`).

The headers are read from the first to the last; nothing is unpacked. A picture's place in the shard is kept, so that
a result's picture can be shown without another pass.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from mwactl.data.formats.folder import PICTURE_SUFFIXES
from mwactl.errors import DataError
from mwactl.search.item import Item, What

_SIDECARS = (".txt", ".json")
_MOST_SIDECAR_BYTES = 1 << 20


@dataclass
class _Sample:
    """What the members of one key say."""

    picture: tarfile.TarInfo | None = None
    caption: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def read_shard(shard: Path, what: What) -> Iterator[Item]:
    """The samples of a shard that have a picture (or a caption), in its order.

    Raises:
        DataError: It is no whole tar file, or a JSON or a text in it cannot be read.
    """
    status = shard.stat()
    try:
        with tarfile.open(shard, "r:") as tar:
            for key, members in groupby(filter(_is_of_a_sample, tar), _key):
                sample = _sample(tar, shard, list(members))
                if what == "texts" and sample.caption is not None:
                    yield Item(key, str(shard), member=f"{key}.txt", text=sample.caption, fields=sample.fields)
                elif what == "images" and sample.picture is not None:
                    caption = {} if sample.caption is None else {"caption": sample.caption}
                    picture = sample.picture
                    yield Item(
                        id=key,
                        path=str(shard),
                        stamp=(status.st_size, status.st_mtime_ns),
                        member=picture.name,
                        span=(picture.offset_data, picture.size),
                        fields=caption | sample.fields,
                    )
    except tarfile.TarError as error:
        raise _broken(shard, str(error)) from error


def _is_of_a_sample(member: tarfile.TarInfo) -> bool:
    name = PurePosixPath(member.name).name
    suffix = PurePosixPath(name).suffix.lower()
    return member.isreg() and not name.startswith(".") and (suffix in PICTURE_SUFFIXES or suffix in _SIDECARS)


def _key(member: tarfile.TarInfo) -> str:
    """The member's path up to the first point of its name."""
    path = PurePosixPath(member.name)
    return str(path.with_name(path.name.partition(".")[0]))


def _sample(tar: tarfile.TarFile, shard: Path, members: list[tarfile.TarInfo]) -> _Sample:
    sample = _Sample()
    for member in members:
        suffix = PurePosixPath(member.name).suffix.lower()
        if suffix not in _SIDECARS:
            if sample.picture is not None:
                raise _broken(shard, f"{sample.picture.name} and {member.name} are two pictures of one sample")
            sample.picture = member
        elif suffix == ".txt":
            sample.caption = _text(tar, shard, member).strip() or None
        else:
            sample.fields = _facts(tar, shard, member)
    return sample


def _facts(tar: tarfile.TarFile, shard: Path, member: tarfile.TarInfo) -> dict[str, Any]:
    try:
        facts = json.loads(_text(tar, shard, member), parse_constant=lambda _: None)  # NaN is no JSON
    except (ValueError, RecursionError) as error:
        raise _broken(shard, f"{member.name} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise _broken(shard, f"{member.name} is not a JSON object")
    return facts


def _text(tar: tarfile.TarFile, shard: Path, member: tarfile.TarInfo) -> str:
    if member.size > _MOST_SIDECAR_BYTES:
        raise _broken(shard, f"{member.name} has {member.size:,} bytes; a text beside a picture has at most 1 MiB")
    file = tar.extractfile(member)
    assert file is not None  # a regular file has content
    try:
        return file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(shard, f"{member.name} is not UTF-8") from error


def _broken(shard: Path, why: str) -> DataError:
    return DataError("the shard cannot be read", where=str(shard), why=why, fix="fetch or write this shard again")
