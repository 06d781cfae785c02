"""The catalogue: which data sets the user has, by name. It holds paths, not data."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mwactl.data.download import fetch_pictures
from mwactl.data.entry import CatalogueEntry
from mwactl.data.formats import PACKED, READERS
from mwactl.data.made_split import FORMAT as MADE_SPLIT
from mwactl.data.made_split import index_path
from mwactl.data.recognise import recognise
from mwactl.errors import DataError, IncompatibleError, NotFoundError, ResourceError, UsageError
from mwactl.files import atomic_write
from mwactl.home import catalogue_path
from mwactl.progress import Reporter, Silent

AUTO = "auto"
"""In place of a format: it is told by the files."""

_SCHEMA = 1
_FAILURES_NAMED = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOCK_SECONDS = 10.0


class Catalogue:
    """The data sets of one catalogue file; every change is written at once, whole.

    Args:
        path: The JSON file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def default(cls) -> Catalogue:
        """The user's catalogue."""
        return cls(catalogue_path())

    def add(
        self,
        name: str,
        *,
        format: str = AUTO,
        annotations: Path | None = None,
        images: Path | None = None,
        replace: bool = False,
        dry_run: bool = False,
        download: bool = False,
        reporter: Reporter | None = None,
    ) -> CatalogueEntry:
        """Read and check a data set, then remember it. Adding the same once more changes nothing.

        Args:
            name: What recipes will call it: letters, digits, `.`, `_`, `-`.
            format: A key of `READERS`, or `auto`: it is told by the files.
            annotations: The annotation file, if the format has one; where it may be several, also their folder or a
                pattern (`shards/{000..127}.tar`).
            images: The folder that picture paths start from. Unset: that of the annotations.
            replace: Let the name stand for this data set from now on, whatever it stood for.
            dry_run: Do all but the writing.
            download: Fetch pictures that the annotations name by an address, those that are not here yet.
            reporter: Hears of missing pictures and of pictures in more than one split.

        Raises:
            UsageError: The name cannot be used or stands for another data set, the format is not known or does not go
                with the other arguments.
            NotFoundError: The annotation file, the folder, or every single picture is missing.
            DataError: The annotations cannot be read or have mistakes.
            ResourceError: The disk is full, or another process holds the catalogue.
        """
        entry = _new_entry(name, format, annotations, images)
        self._refuse_other(self._read(), entry, replace)  # before the long work
        reporter = reporter or Silent()
        if download:
            _fetch(entry, reporter, dry_run=dry_run)
        else:
            entry.refuse_unfetched()
        if not (download and dry_run):
            entry.check(reporter)
        if not dry_run:
            self.put(entry, replace=replace)
        return entry

    def put(self, entry: CatalogueEntry, *, replace: bool = False) -> None:
        """Remember an entry as it is.

        Raises:
            UsageError: The name stands for another data set.
            ResourceError: The disk is full, or another process holds the catalogue.
        """
        with self._lock():
            known = self._read()
            self._refuse_other(known, entry, replace)
            if known.get(entry.name) != entry:
                self._write({**known, entry.name: entry})

    def entries(self) -> list[CatalogueEntry]:
        """All data sets, by name."""
        return [entry for _, entry in sorted(self._read().items())]

    def get(self, name: str) -> CatalogueEntry:
        """The data set of a name.

        Raises:
            NotFoundError: There is none; the error shows how to add it, and names that are close.
        """
        known = self._read()
        if name not in known:
            close = difflib.get_close_matches(name, known, cutoff=0.5)
            added = f"added so far: {', '.join(sorted(known)) or 'none'}"
            raise NotFoundError(
                f"no data set '{name}'",
                where=str(self.path),
                why=f"did you mean {' or '.join(close)}?" if close else added,
                fix=f"mwactl data add {name} --format karpathy --annotations FILE --images DIR",
            )
        return known[name]

    def divisions_of(self, name: str) -> list[str]:
        """The data sets that were divided from one of this name."""
        return [entry.name for entry in self.entries() if entry.source == name]

    def remove(self, name: str) -> None:
        """Forget a data set; its files stay, but for the index of one that was divided here.

        Raises:
            NotFoundError: There is none.
            ResourceError: The disk is full, or another process holds the catalogue.
        """
        with self._lock():
            self.get(name)
            self._write({key: entry for key, entry in self._read().items() if key != name})
            index_path(name).unlink(missing_ok=True)

    def _refuse_other(self, known: dict[str, CatalogueEntry], entry: CatalogueEntry, replace: bool) -> None:
        """A name stands for one data set."""
        other = known.get(entry.name)
        if other is not None and other != entry and not replace:
            raise UsageError(
                f"there is another data set '{entry.name}'",
                where=str(self.path),
                why=f"it is: {other.format}, annotations {other.annotations or 'none'}, images {other.images}",
                fix="add --replace, or choose another name",
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other processes from changing the catalogue between reading and writing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_name(self.path.name + ".lock"), timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            why = f"another mwactl has held it for {_LOCK_SECONDS:g} s"
            raise ResourceError("the catalogue is locked", where=str(self.path), why=why, fix="try again") from error
        try:
            yield
        finally:
            lock.release()

    def _read(self) -> dict[str, CatalogueEntry]:
        try:
            document = json.loads(self.path.read_bytes())
            if document["schema"] != _SCHEMA:
                why = f"it has schema {document['schema']!r}; this version of mwactl reads {_SCHEMA}"
                raise IncompatibleError("cannot read the catalogue", where=str(self.path), why=why, fix="update mwactl")
            return {name: _entry(name, fields) for name, fields in document["datasets"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                "the catalogue is damaged",
                where=str(self.path),
                why=f"{type(error).__name__}: {error}",
                fix="repair the JSON, or move the file away and add the data sets again: mwactl data add",
            ) from error

    def _write(self, known: dict[str, CatalogueEntry]) -> None:
        datasets = {
            name: {
                "format": entry.format,
                "annotations": str(entry.annotations) if entry.annotations else None,
                "images": str(entry.images),
                **({"source": entry.source} if entry.source else {}),
            }
            for name, entry in sorted(known.items())
        }
        # ASCII with escapes: file names need not be valid Unicode.
        atomic_write(self.path, json.dumps({"schema": _SCHEMA, "datasets": datasets}, indent=2).encode("ascii") + b"\n")


def _new_entry(name: str, format: str, annotations: Path | None, images: Path | None) -> CatalogueEntry:
    """An entry from what a user gave, if it can be one."""
    check_name(name)
    if format not in (AUTO, *READERS):
        known_formats = ", ".join(READERS)
        raise UsageError(f"no format '{format}'", why=f"there are: {known_formats}", fix="leave out --format")
    annotations, images = (path and path.expanduser().resolve() for path in (annotations, images))
    if format == AUTO:
        format = recognise(annotations, images)
    if format in PACKED and annotations is None:
        annotations, images = images, None
    if images is None:
        if annotations is None:
            raise UsageError("nothing was given", fix="give --annotations FILE, --images DIR, or both")
        images = annotations if annotations.is_dir() else _folder_of(annotations)
    if not images.is_dir():
        raise NotFoundError("no such picture folder", where=str(images), fix="check --images")
    return CatalogueEntry(name, format, annotations, images)


def _folder_of(path: Path) -> Path:
    """The folder of a file; of a pattern, the first that is there."""
    return next(parent for parent in path.parents if parent.is_dir())


def check_name(name: str) -> None:
    """Whether recipes may call a data set so.

    Raises:
        UsageError: They may not.
    """
    if not _NAME.fullmatch(name):
        why = "it may have letters, digits, '.', '_' and '-', starts with a letter or digit, and is at most 64 long"
        raise UsageError(f"'{name}' cannot be the name of a data set", why=why, fix="choose another name")


def _fetch(entry: CatalogueEntry, reporter: Reporter, *, dry_run: bool) -> None:
    """Fetch what the annotations name by an address; what cannot be had is told, and is missing."""
    pictures = entry.web_pictures()
    missing = [picture for picture in pictures if not picture.is_file()]
    if dry_run:
        reporter.info(f"{len(missing):,} of {len(pictures):,} pictures of the web would be fetched")
        return
    failures = fetch_pictures(missing, reporter)
    for picture, reason in failures[:_FAILURES_NAMED]:
        reporter.warn(f"{picture}: {reason}")
    reporter.info(f"{len(pictures) - len(failures):,} of {len(pictures):,} pictures of the web are here")


def _entry(name: str, fields: Any) -> CatalogueEntry:
    """An entry from its JSON fields."""
    annotations = Path(fields["annotations"]) if fields["annotations"] is not None else None
    if fields["format"] not in (MADE_SPLIT, *READERS):
        raise ValueError(f"'{name}' has the unknown format {fields['format']!r}")
    return CatalogueEntry(name, fields["format"], annotations, Path(fields["images"]), fields.get("source"))
