"""One picture or caption of a collection: its id, where its bytes are, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mwactl.errors import DataError

What = Literal["images", "texts"]


def stamp_of(path: Path) -> tuple[int, ...]:
    """Size and time of change; nothing where there is no such file, which the attempt to read it will tell."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Item:
    """A picture or a caption, as it lies in its source."""

    id: str
    """What results call it: a picture's path inside its folder, a shard's key, a table's `id`."""

    path: str
    """The file that holds it: the picture, the tar shard, or the file of captions. Absolute."""

    stamp: tuple[int, ...] = ()
    """What changes when the picture's bytes do: the file's size and time of change. Captions need none."""

    member: str | None = None
    """Its name in a tar shard."""

    span: tuple[int, int] | None = None
    """Offset and length of its bytes in a tar shard."""

    text: str | None = None
    """The caption itself, where captions are embedded."""

    fields: dict[str, Any] = field(default_factory=dict)
    """What else its source says of it: the other columns, the JSON beside it. `--where` asks these."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.path}:{self.member}" if self.member else self.path

    def is_as(self, other: Item) -> bool:
        """Whether the other, of the same id, was made from the same bytes."""
        return (self.path, self.stamp, self.span, self.text) == (other.path, other.stamp, other.span, other.text)

    def read(self) -> bytes:
        """The picture's bytes; of a tar shard, nothing else of it is read.

        Raises:
            DataError: They cannot be read.
        """
        try:
            if self.span is None:
                return Path(self.path).read_bytes()
            offset, size = self.span
            with Path(self.path).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise DataError("cannot read the picture", where=self.place, why=error.strerror or str(error)) from error

    def as_row(self) -> dict[str, Any]:
        """As a line of a rows file; what is empty is left out."""
        row: dict[str, Any] = {"id": self.id, "path": self.path}
        if self.stamp:
            row["stamp"] = list(self.stamp)
        if self.member is not None and self.span is not None:
            row |= {"member": self.member, "span": list(self.span)}
        if self.text is not None:
            row["text"] = self.text
        if self.fields:
            row["fields"] = self.fields
        return row

    @staticmethod
    def from_row(row: dict[str, Any]) -> Item:
        """The opposite of `as_row`."""
        span = row.get("span")
        return Item(
            id=row["id"],
            path=row["path"],
            stamp=tuple(row.get("stamp", ())),
            member=row.get("member"),
            span=(span[0], span[1]) if span else None,
            text=row.get("text"),
            fields=row.get("fields", {}),
        )
