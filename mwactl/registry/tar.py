"""Tars that can be compared and trusted: equal contents have equal bytes, and nothing is read but plain files.

Nothing is ever extracted to the path that a member names: a member is a name and a stretch of the tar, and who reads it
decides where the bytes go. Source: POSIX.1-2017, pax, ustar interchange format.
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from mwactl.registry.untrusted import fail

BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
_MAX_USTAR_BYTES = 8**11 - 1  # eleven octal digits
_MAX_PAX_BYTES = 64 * 2**10
_USTAR = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_END = bytes(2 * BLOCK_BYTES)
_FILES, _DIRECTORY, _PAX = (tarfile.REGTYPE, tarfile.AREGTYPE), tarfile.DIRTYPE, tarfile.XHDTYPE
# What tools say beside the name and the size, and what changes nothing about the content.
_IGNORED_PAX = frozenset(
    {"mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment", "charset", "hdrcharset"}
)


# -- writing ---------------------------------------------------------------------------------------------------


def tar_size(sizes: Iterable[int]) -> int:
    """How long a tar of files with these sizes is, in bytes."""
    return sum(len(_headers("", size)) + _padded(size) for size in sizes) + len(_END)


def tar_chunks(members: Iterable[tuple[str, int, Iterable[bytes]]]) -> Iterator[bytes]:
    """A tar of plain files, piece by piece: name, size and content of each, in the order given.

    No member has a time, an owner, or permissions of its own.
    """
    for name, size, content in members:
        yield _headers(name, size)
        yield from content
        yield bytes(_padded(size) - size)
    yield _END


def _headers(name: str, size: int) -> bytes:
    """A member's header; before it the size alone, where that is too large for it."""
    if size <= _MAX_USTAR_BYTES:
        return _header(name, size, tarfile.REGTYPE)
    text = f" size={size}\n"
    length = len(text) + 2
    record = f"{length}{text}".encode("ascii")
    assert len(record) == length
    block = record.ljust(BLOCK_BYTES, b"\0")
    return _header("pax", len(record), _PAX) + block + _header(name, 0, tarfile.REGTYPE)


def _header(name: str, size: int, kind: bytes) -> bytes:
    spelt = name.encode("ascii")
    if len(spelt) > 100:
        raise ValueError(f"too long for a tar: {name}")
    nobody = b"%07o" % 0
    fields = [spelt, b"%07o" % 0o644, nobody, nobody, b"%011o" % size, b"%011o" % 0]
    rest = [kind, b"", b"ustar\x0000", b"", b"", nobody, nobody, b""]
    total = sum(_USTAR.pack(*fields, b" " * 8, *rest))
    return _USTAR.pack(*fields, b"%06o\0 " % total, *rest)


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


# -- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A plain file in a tar."""

    tar: Path
    """The tar."""
    offset: int
    """Where its bytes begin."""
    size: int
    """How many there are."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a megabyte at a time; fewer where the tar has become shorter."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            rest = self.size
            while rest and (chunk := file.read(min(rest, _CHUNK_BYTES))):
                rest -= len(chunk)
                yield chunk


def read_members(tar: Path, *, max_members: int) -> dict[str, Member]:
    """The plain files in a tar, by name without a leading `./`; directories are passed over, all else is refused.

    Only headers are read.

    Raises:
        VerificationError: It is no tar, is cut off, holds anything but files and directories, or a name twice.
        OSError: The file cannot be read.
    """
    with tar.open("rb") as file:
        return _Walk(file, tar).members(max_members)


class _Walk:
    """From header to header; what a header says is believed only as far as the file reaches."""

    def __init__(self, file: IO[bytes], tar: Path) -> None:
        self._file = file
        self._tar = tar
        self._end = file.seek(0, 2)

    def members(self, max_members: int) -> dict[str, Member]:
        found: dict[str, Member] = {}
        directories: list[str] = []
        taken: set[str] = set()
        said: dict[str, int] = {}
        offset = count = 0
        while (info := self._header(offset)) is not None:
            offset += BLOCK_BYTES
            count += 1
            if count > max_members:
                self._fail("there is too much in it", f"more than {max_members:,} members")
            size = said.get("size", info.size)
            if not 0 <= size <= self._end - offset:
                self._fail("it is cut off, or a size in it is wrong", f"{info.name!r} is said to have {size:,} bytes")
            if info.type == _PAX and not said:
                said = self._pax(offset, size)
            else:
                said = {}
                self._check_type(info, size)
                name = self._name(info.name, taken)
                if info.type == _DIRECTORY:
                    directories.append(name)
                else:
                    found[name] = Member(self._tar, offset, size)
            offset += _padded(size)
        self._check_end(offset)
        if empty := set(directories) - {str(parent) for name in found for parent in PurePosixPath(name).parents} - {""}:
            self._fail("there is an empty directory in it", repr(min(empty)))
        return found

    def _check_type(self, info: tarfile.TarInfo, size: int) -> None:
        if info.type not in _FILES and (info.type != _DIRECTORY or size):
            self._fail("there is something in it that is no plain file", f"{info.name!r}, {_kind(info)}")

    def _header(self, offset: int) -> tarfile.TarInfo | None:
        """The header at an offset, or None at the end mark."""
        self._file.seek(offset)
        block = self._file.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            if offset == 0:
                self._fail("this is no tar, or it is cut off", "it has not even one header")
            self._fail("it is cut off", "the end mark is missing")
        if not any(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            self._fail("this is no tar" if offset == 0 else "a header in it is damaged", str(error))

    def _name(self, name: str, taken: set[str]) -> str:
        """A member's name without the leading `./`; nothing is left of the directory that was packed."""
        plain = name.removeprefix("./") if name != "." else ""
        if plain and (not plain.isascii() or not plain.isprintable() or {"", ".", ".."} & set(plain.split("/"))):
            self._fail("a name in it leads elsewhere", repr(name))
        # Not told apart by every file system, so that it would depend on the machine which of the two is meant.
        if plain.lower() in taken:
            self._fail("a name is in it twice", repr(name))
        taken.add(plain.lower())
        return plain

    def _pax(self, offset: int, size: int) -> dict[str, int]:
        """The size in a pax header; it may say nothing else that matters."""
        if size > _MAX_PAX_BYTES:
            self._fail("a header in it is too long", f"{size:,} bytes")
        self._file.seek(offset)
        rest = self._file.read(size)
        said = {}
        while rest:
            digits, blank, _ = rest.partition(b" ")
            length = int(digits) if blank and digits.isdigit() and len(digits) < 8 else 0
            key, equals, value = rest[len(digits) + 1 : length].partition(b"=")
            if not equals or not value.endswith(b"\n") or length > len(rest):
                self._fail("a header in it is damaged", "a pax record is malformed")
            name = key.decode("ascii", "backslashreplace")
            if name == "size" and value[:-1].isdigit() and len(value) < 20:
                said["size"] = int(value)
            elif name not in _IGNORED_PAX:
                self._fail("a header in it says something unknown", repr(name[:70]))
            rest = rest[length:]
        return said

    def _check_end(self, offset: int) -> None:
        """Behind the last member are zeros, at least two blocks of them, and nothing else."""
        if self._end - offset < len(_END):
            self._fail("it is cut off", "the end mark is missing")
        self._file.seek(offset)
        while chunk := self._file.read(_CHUNK_BYTES):
            if any(chunk):
                self._fail("there is something behind its end", f"after {offset:,} bytes")

    def _fail(self, what: str, why: str) -> NoReturn:
        fail(what, where=str(self._tar), why=why)


def _kind(info: tarfile.TarInfo) -> str:
    kinds = {
        tarfile.SYMTYPE: f"a link to {info.linkname!r}",
        tarfile.LNKTYPE: f"a link to {info.linkname!r}",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.DIRTYPE: "a directory with content",
    }
    return kinds.get(info.type, f"type {info.type!r}")
