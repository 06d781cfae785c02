"""Tar shards in the webdataset manner: the members of one key are one sample (`000017.jpg`, `.txt`, `.json`).

The headers are read from the first to the last; nothing is unpacked, so a member's name is a name and never a path.
Where a picture's bytes lie is kept: they are read from the middle of the shard when they are wanted. The package
`webdataset` streams shards in order and shuffles in a buffer; a run here is resumed by the indices of its pictures.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mwactl.data.formats.folder import PICTURE_SUFFIXES
from mwactl.data.picture_file import Stamp
from mwactl.data.tar_member import TarMember
from mwactl.errors import DataError

_SIDECARS = (".txt", ".json")
_MOST_SIDECAR_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "unzstd", b"\xfd7zX": "unxz", b"BZh": "bunzip2"}
#: What tarfile raises of bytes that are no tar; some of a header's fields are taken apart without care.
_TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, EOFError)


@dataclass
class Sample:
    """What the members of one key say."""

    key: str
    """Their name up to the first point."""

    picture: TarMember | None = None
    """Where the picture is."""

    text: str | None = None
    """The `.txt` member."""

    fields: dict[str, Any] = field(default_factory=dict)
    """The `.json` member."""


def read_samples(shard: Path) -> Iterator[Sample]:
    """The samples of a shard, in its order. Links, hidden members and members of other kinds are passed over.

    Raises:
        DataError: It is no whole tar file, or a JSON or a text in it cannot be read.
    """
    stamp = Stamp.of(shard)
    _refuse_compressed(shard)
    try:
        with tarfile.open(shard, "r:") as tar:
            # Not only neighbours: `tar` itself writes a folder's files in no order.
            for key, members in _by_key(tar, shard).items():
                yield _sample(tar, shard, stamp, key, members)
    except _TAR_ERRORS as error:
        raise _broken(shard, str(error) or type(error).__name__) from error


def _refuse_compressed(shard: Path) -> None:
    with shard.open("rb") as file:
        start = file.read(4)
    command = next((command for magic, command in _COMPRESSED.items() if start.startswith(magic)), None)
    if command is not None:
        raise DataError(
            "a compressed shard cannot be read in place",
            where=str(shard),
            why="a picture is read from the middle of its shard, and pictures are compressed already",
            fix=f"decompress it once ({command}), and name the .tar",
        )


def _by_key(tar: tarfile.TarFile, shard: Path) -> dict[str, list[tarfile.TarInfo]]:
    members: dict[str, list[tarfile.TarInfo]] = {}
    for member in filter(_is_of_a_sample, tar):
        members.setdefault(_key(member), []).append(member)
    _check_end(tar, shard)
    return members


def _check_end(tar: tarfile.TarFile, shard: Path) -> None:
    """tarfile takes a broken header, or one of zeros, for the end; after the real end nothing but zeros comes."""
    with shard.open("rb") as file:
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise _broken(shard, f"there is no header and no end mark at byte {tar.offset:,}: it is cut or damaged")
        while rest := file.read(_CHUNK_BYTES):
            if rest.count(0) != len(rest):
                raise _broken(
                    shard,
                    f"more comes after the end mark at byte {tar.offset:,}: it is damaged, or several tars in one file",
                )


def _is_of_a_sample(member: tarfile.TarInfo) -> bool:
    name = PurePosixPath(member.name).name
    suffix = PurePosixPath(name).suffix.lower()
    plain = member.isreg() and not member.issparse()
    return plain and not name.startswith(".") and (suffix in PICTURE_SUFFIXES or suffix in _SIDECARS)


def _key(member: tarfile.TarInfo) -> str:
    """The member's path up to the first point of its name."""
    path = PurePosixPath(member.name)
    return str(path.with_name(path.name.partition(".")[0]))


def _sample(tar: tarfile.TarFile, shard: Path, stamp: Stamp, key: str, members: list[tarfile.TarInfo]) -> Sample:
    sample = Sample(key)
    kinds: dict[str, str] = {}
    for member in members:
        suffix = PurePosixPath(member.name).suffix.lower()
        kind = suffix if suffix in _SIDECARS else "picture"
        if kind in kinds:
            raise _broken(shard, f"{kinds[kind]} and {member.name} are two {kind}s of one sample")
        kinds[kind] = member.name
        if kind == "picture":
            sample.picture = TarMember(shard, stamp, member.name, member.offset_data, member.size)
        elif suffix == ".txt":
            sample.text = _text(tar, shard, member)
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
        raise _broken(shard, f"{member.name} has {member.size:,} bytes; a text beside a picture has at most 16 MiB")
    file = tar.extractfile(member)
    assert file is not None  # a regular file has content
    try:
        return file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(shard, f"{member.name} is not UTF-8") from error


def _broken(shard: Path, why: str) -> DataError:
    return DataError("the shard cannot be read", where=str(shard), why=why, fix="fetch or write this shard again")
