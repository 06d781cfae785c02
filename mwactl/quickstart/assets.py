"""The drawings that ship with the package for `mwactl quickstart`, and unpacking them.

`noto` and `twemoji` draw the same 1,026 emoji in two styles, with the same captions and the same split. The backbone
`clip-tiny-emoji` was pretrained on the Twemoji drawings. NOTICE gives credits and licences.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import IO, Literal, get_args

from mwactl.errors import UsageError, VerificationError
from mwactl.files import naming_write_errors

SetName = Literal["noto", "twemoji"]
"""The sets of drawings that ship with the package."""

_ANNOTATIONS = "captions.json"
_IMAGES = "images"
_REINSTALL = "pip install --force-reinstall mwactl"


def unpack(set_name: SetName, to: Path) -> tuple[Path, Path]:
    """Unpack a set of drawings into the folder `to`/`set_name`, unless it lies there already.

    The folder appears complete or not at all. An existing folder is read and compared with the package's bytes, and
    never written to.

    Returns:
        The annotation file (Karpathy JSON) and the folder of its pictures (64x64 JPEG).

    Raises:
        UsageError: There is no such set.
        VerificationError: The package's archive is damaged, or the existing folder differs from it.
        ResourceError: The disk is full.
    """
    if set_name not in get_args(SetName):
        known = ", ".join(get_args(SetName))
        raise UsageError(f"there is no set of drawings named {set_name!r}", fix=f"name one of: {known}")
    folder = to / set_name
    with files(__package__).joinpath(f"{set_name}.zip").open("rb") as file:
        unpack_archive(file, folder)
    return folder / _ANNOTATIONS, folder / _IMAGES


def unpack_archive(file: IO[bytes], folder: Path) -> None:
    """Unpack a zip archive into the new folder `folder`, or check the folder against it where it exists.

    Raises:
        VerificationError: The archive is damaged, has a member that would land outside the folder, or the existing
            folder lacks a member or holds other bytes under its name.
        ResourceError: The disk is full.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = _plain_members(archive)
            if not folder.exists():
                _unpack_new(archive, members, folder)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise VerificationError("an archive is damaged", where=folder.name, why=str(error), fix=_REINSTALL) from error
    _verify(members, folder)


def _plain_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The archive's members, once each is known to be a plain file that stays inside the folder."""
    members = archive.infolist()
    for member in members:
        path = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        escapes = path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename
        if escapes or member.is_dir() or kind not in (0, stat.S_IFREG):
            raise VerificationError(
                "an archive has a member that is not a plain file inside it", where=member.filename, fix=_REINSTALL
            )
    return members


def _unpack_new(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Unpack beside the folder, then rename; the zip's checksums are verified on the way."""
    with naming_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            for member in members:
                target = temporary / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
            temporary.chmod((folder.parent.stat().st_mode & 0o777) | stat.S_IRWXU)
            temporary.replace(folder)
        except OSError as error:
            # Another process may have unpacked the same set meanwhile: the caller checks what it left.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _verify(members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Compare each unpacked file with the archive's checksum."""
    for member in members:
        path = folder / member.filename
        if not path.is_file() or zlib.crc32(path.read_bytes()) != member.CRC:
            raise VerificationError(
                "an unpacked folder is not what the package holds",
                where=os.fspath(path),
                why="the file was changed since" if path.is_file() else "the file is missing",
                fix=f"rm -r {folder}, then run the command again",
            )
